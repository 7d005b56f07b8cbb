"""The report as one web page that needs no network."""

from __future__ import annotations

import html
import json
from typing import Any

from plotly.offline import get_plotlyjs

from aded.bench.figures import figures

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --line: #d8dee4; --back: #ffffff; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --soft: #9198a1; --line: #30363d; --back: #0d1117; --card: #161b22; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem; background: var(--back); color: var(--text);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { margin: 2.2rem 0 0; font-size: 1.15rem; }
p { margin: 0.2rem 0 0.6rem; color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 0.8rem; margin: 1.2rem 0; }
.card { flex: 1 1 10rem; padding: 0.8rem 1rem; background: var(--card); border: 1px solid var(--line);
        border-radius: 8px; }
.card b { display: block; font-size: 1.7rem; }
.card span { color: var(--soft); font-size: 0.85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1.2rem; font-size: 0.9rem; }
dt { color: var(--soft); } dd { margin: 0; }
"""

_SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const text = getComputedStyle(document.documentElement).getPropertyValue("--text");
  figures.forEach((figure, i) => {
    const layout = structuredClone(figure.layout);
    layout.font.color = text;
    Plotly.react("figure-" + i, figure.data, layout, {responsive: true, displayModeBar: false});
  });
}
dark.addEventListener("change", draw);
draw();
"""

_COLUMNS = (
    ("drafter", "{}"),
    ("tokens_per_second", "{:.1f}"),
    ("speedup", "{:.2f}"),
    ("speedup_low", "{:.2f}"),
    ("speedup_high", "{:.2f}"),
    ("mat", "{:.2f}"),
    ("prompts", "{}"),
    ("identical", "{}"),
    ("ties", "{}"),
    ("differences", "{}"),
    ("time_to_first_token_s", "{:.3f}"),
    ("step_ms", "{:.1f}"),
    ("nodes_used", "{:.1f}"),
    ("draft_share", "{:.2%}"),
    ("learn_share", "{:.2%}"),
    ("peak_memory_mb", "{:.0f}"),
    ("state_mb", "{:.1f}"),
)


def page(report: dict[str, Any]) -> str:
    """The whole page; `report` is what `aded bench --json` writes."""
    plots = figures(report)
    data = json.dumps([json.loads(figure.to_json()) for _, _, figure in plots]).replace("<", "\\u003c")
    sections = "".join(
        f'<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p><div id="figure-{i}"></div>'
        for i, (title, text, _) in enumerate(plots)
    )
    environment = report["environment"]
    about = f"{environment['model']}, {environment['dtype']}, {environment['processor']}, {environment['date']}"
    rows = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in _plain(report).items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ADED benchmark</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>ADED benchmark</h1><p>{html.escape(about)}</p>"
        f"{_cards(report)}{sections}<h2>All figures</h2><div class='scroll'>{_table(report['results'])}</div>"
        f"<h2>Environment and settings</h2><dl>{rows}</dl>"
        f'<script type="application/json" id="figures">{data}</script>'
        f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script></body></html>"
    )


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", " "): value for key, value in {**report["environment"], **report["settings"]}.items()}


def _cards(report: dict[str, Any]) -> str:
    """The four things to know of the fastest contender beside plain decoding."""
    results = report["results"]
    if len(results) < 2:
        return ""
    best = max(results[1:], key=lambda result: result["speedup"])
    same = best["prompts"] - best["ties"] - best["differences"]
    note = f"{best['ties']} ties within rounding, {best['differences']} differences"
    cards = (
        (f"{best['speedup']:.2f}x", f"{best['drafter']}, median speedup over plain decoding"),
        (f"{best['tokens_per_second']:.1f}", f"tokens a second; plain {results[0]['tokens_per_second']:.1f}"),
        (f"{best['mat']:.2f}", "tokens for each forward pass of the model"),
        (f"{same} of {best['prompts']}", f"outputs identical; {note}"),
    )
    shown = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>' for value, text in cards
    )
    return f'<div class="cards">{shown}</div>'


def _table(results: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name, _ in _COLUMNS)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{'' if result[name] is None else html.escape(form.format(result[name]))}</td>"
            for name, form in _COLUMNS
        )
        + "</tr>"
        for result in results
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
