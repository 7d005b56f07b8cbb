"""The report as one web page that needs no network, with its figures. Their colours read on white and on black."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from plotly import graph_objects as go

from aded.bench.contenders import PLAIN
from aded.bench.live import NODES

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
    ("exact", "{}"),
    ("time_to_first_token_s", "{:.3f}"),
    ("step_ms", "{:.1f}"),
    ("nodes_used", "{:.1f}"),
    ("draft_share", "{:.2%}"),
    ("learn_share", "{:.2%}"),
    ("peak_memory_mb", "{:.0f}"),
    ("state_mb", "{:.1f}"),
)

# After Okabe and Ito's palette (2008), told apart by colour-blind readers too; no black, no yellow, a lighter blue.
_COLOURS = ("#2683C6", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6BB1", "#999999")
_PARTS = (("verify", "#2683C6"), ("draft", "#E69F00"), ("learn", "#009E73"), ("rest", "#999999"))
_TEXT = "#75797e"  # a grey with the same contrast to the page's white as to its black
_GRID = "rgba(128,128,128,0.25)"

_ABOUT = (
    ("Speedup by category", "Median of paired ratios to plain decoding; the bars span the quartiles."),
    (
        "Tokens a step against nodes",
        "The same prompts replayed with fixed budgets (MAT: tokens for each forward pass of the model).",
    ),
    ("Acceptance by depth", "Share of steps that keep at least so many drafted tokens."),
    ("Where a step's time goes", "Mean milliseconds a step of our loop; the prompt's own pass counts as verification."),
    (
        "Cost of a step",
        "One forward pass against the tokens in it, measured on this machine; budgets follow this curve.",
    ),
)


def page(report: dict[str, Any]) -> str:
    """The whole page; `report` is what `aded bench --json` writes."""
    sections = "".join(
        f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{_plot(figure, first=i == 0)}"
        for i, (title, text, figure) in enumerate(_figures(report))
    )
    environment = report["environment"]
    about = f"{environment['model']}, {environment['dtype']}, {environment['processor']}, {environment['date']}"
    rows = "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in {**environment, **report["settings"]}.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ADED benchmark</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>ADED benchmark</h1><p>{html.escape(about)}</p>"
        f"{_cards(report)}{sections}<h2>All figures</h2><div class='scroll'>{_table(report['results'])}</div>"
        f"<h2>Environment and settings</h2><dl>{rows}</dl></body></html>"
    )


def _plot(figure: go.Figure, *, first: bool) -> str:
    """Its place on the page; the first brings plotly's script along for all."""
    config = {"responsive": True, "displayModeBar": False}
    height = f"{figure.layout.height}px"
    plot: str = figure.to_html(config, full_html=False, include_plotlyjs=first, default_height=height)
    return plot


def _cards(report: dict[str, Any]) -> str:
    """The four things to know of the fastest contender beside plain decoding."""
    results = report["results"]
    if len(results) < 2:
        return ""
    best = max(results[1:], key=lambda result: result["speedup"])
    same = best["prompts"] - best["ties"] - best["differences"]
    note = f"{best['ties']} ties within rounding, {best['differences']} differences"
    if best["exact"] == "generate":
        note = f"every score has the bits of plain decoding's; {best['differences']} differences"
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
    body = ""
    for result in results:
        cells = ["" if result[name] is None else form.format(result[name]) for name, form in _COLUMNS]
        body += f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figures(report: dict[str, Any]) -> list[tuple[str, str, go.Figure]]:
    """(title, what it shows, figure) of everything the report has data for."""
    results = [result for result in report["results"] if result["drafter"] != PLAIN]
    colour = dict(zip((result["drafter"] for result in report["results"][1:]), cycle(_COLOURS), strict=False))
    found = (
        _speedup(results, colour),
        _mat(report.get("mat_by_nodes") or {}, colour),
        _acceptance(results, colour),
        _shares(results),
        _cost(report.get("step_cost") or {}),
    )
    return [(*about, figure) for about, figure in zip(_ABOUT, found, strict=True) if figure.data]


def _base(x: str, y: str, **layout: Any) -> go.Figure:
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    figure = go.Figure()
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _TEXT},
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        height=380,
        xaxis={"title": {"text": x}, **axis},
        yaxis={"title": {"text": y}, **axis},
        hoverlabel={"namelength": -1},
    )
    return figure.update_layout(**layout)


def _line(figure: go.Figure, name: str, colour: str, x: Sequence[float], y: Sequence[float], hover: str) -> None:
    style = {"mode": "lines+markers", "line_color": colour, "hovertemplate": hover}
    figure.add_scatter(name=name, x=list(x), y=list(y), **style)


def _speedup(results: Sequence[dict[str, Any]], colour: dict[str, str]) -> go.Figure:
    figure = _base("", "speedup", barmode="group", bargap=0.25)
    for result in results:
        parts = {"all": result}
        if len(result["by_category"]) > 1:  # one category is all there is
            parts |= result["by_category"]
        figure.add_bar(
            name=result["drafter"],
            x=[name.replace("_", " ") for name in parts],
            y=[part["speedup"] for part in parts.values()],
            marker_color=colour[result["drafter"]],
            error_y={
                "type": "data",
                "array": [part["speedup_high"] - part["speedup"] for part in parts.values()],
                "arrayminus": [part["speedup"] - part["speedup_low"] for part in parts.values()],
                "thickness": 1,
                "width": 2,
                "color": "gray",
            },
            hovertemplate="%{x}: %{y:.2f}x",
        )
    figure.add_hline(y=1.0, line_dash="dash", line_color="gray")
    return figure


def _mat(by_name: dict[str, list[float]], colour: dict[str, str]) -> go.Figure:
    figure = _base("nodes verified a step, at most", "tokens a step")
    for name, values in by_name.items():
        _line(figure, name, colour[name], NODES, values, "%{x} nodes: %{y:.2f}")
    figure.update_xaxes(type="log", tickvals=list(NODES), ticktext=[str(n) for n in NODES])
    return figure


def _acceptance(results: Sequence[dict[str, Any]], colour: dict[str, str]) -> go.Figure:
    figure = _base("drafted tokens", "share of steps", yaxis_tickformat=".0%", yaxis_rangemode="tozero")
    for result in results:
        name, shares = result["drafter"], result["acceptance_by_depth"]
        if shares:
            _line(figure, name, colour[name], range(1, len(shares) + 1), shares, "at least %{x}: %{y:.1%}")
    figure.update_xaxes(dtick=1)
    return figure


def _shares(results: Sequence[dict[str, Any]]) -> go.Figure:
    figure = _base("milliseconds a step", "", barmode="stack")
    timed = [result for result in results if result["parts_ms"]]
    for part, colour in _PARTS if timed else ():
        figure.add_bar(
            name=part,
            y=[result["drafter"] for result in timed],
            x=[result["parts_ms"][part] for result in timed],
            orientation="h",
            marker_color=colour,
            hovertemplate="%{y}: %{x:.2f} ms",
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=140 + 44 * max(len(timed), 1))
    return figure


def _cost(curve: dict[str, list[float]]) -> go.Figure:
    figure = _base("tokens in the pass", "milliseconds", showlegend=False, yaxis_rangemode="tozero")
    if curve:
        milliseconds = [1e3 * seconds for seconds in curve["seconds"]]
        _line(figure, "", _COLOURS[0], curve["tokens"], milliseconds, "%{x} tokens: %{y:.1f} ms")
    return figure
