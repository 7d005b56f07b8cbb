"""The report's figures. Colours are chosen to read on white and on black; text takes its colour from the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from aded.bench.contenders import PLAIN
from aded.bench.offline import NODES

__all__ = ["figures"]

# After Okabe and Ito's palette (2008), told apart by colour-blind readers too; no black, no yellow, a lighter blue.
_COLOURS = ("#2683C6", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6BB1", "#999999")
_PARTS = (("verify", "#2683C6"), ("draft", "#E69F00"), ("learn", "#009E73"), ("rest", "#999999"))
_GRID = "rgba(128,128,128,0.25)"


def figures(report: dict[str, Any]) -> list[tuple[str, str, go.Figure]]:
    """(title, what it shows, figure) of everything the report has data for."""
    results = [result for result in report["results"] if result["drafter"] != PLAIN]
    colour = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(r["drafter"] for r in report["results"][1:])}
    found = [
        (
            "Speedup by category",
            "Median of paired ratios to plain decoding; the bars span the quartiles.",
            _speedup(results, colour),
        ),
        (
            "Tokens a step against nodes",
            "The same prompts replayed with fixed budgets (MAT: tokens for each forward pass of the model).",
            _mat(report.get("mat_by_nodes") or {}, colour),
        ),
        (
            "Acceptance by depth",
            "Share of steps that keep at least so many drafted tokens.",
            _acceptance(results, colour),
        ),
        (
            "Where a step's time goes",
            "Mean milliseconds a step of our loop; the prompt's own pass counts as verification.",
            _shares(results),
        ),
        (
            "Cost of a step",
            "One forward pass against the tokens in it, measured on this machine; budgets follow this curve.",
            _cost(report.get("step_cost") or {}),
        ),
    ]
    return [item for item in found if item[2].data]


def _base(x: str, y: str, **layout: Any) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        height=380,
        xaxis={"title": {"text": x}, "gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True},
        yaxis={"title": {"text": y}, "gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True},
        hoverlabel={"namelength": -1},
    )
    figure.update_layout(**layout)
    return figure


def _speedup(results: Sequence[dict[str, Any]], colour: dict[str, str]) -> go.Figure:
    figure = _base("", "speedup", barmode="group", bargap=0.25)
    for result in results:
        parts = {"all": result, **result["by_category"]}
        if len(parts) == 2:  # one category is all there is
            parts = {"all": result}
        middle = [part["speedup"] for part in parts.values()]
        figure.add_bar(
            name=result["drafter"],
            x=[name.replace("_", " ") for name in parts],
            y=middle,
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
        figure.add_scatter(
            name=name,
            x=list(NODES),
            y=values,
            mode="lines+markers",
            line_color=colour[name],
            hovertemplate="%{x} nodes: %{y:.2f}",
        )
    figure.update_xaxes(type="log", tickvals=list(NODES), ticktext=[str(n) for n in NODES])
    return figure


def _acceptance(results: Sequence[dict[str, Any]], colour: dict[str, str]) -> go.Figure:
    figure = _base("drafted tokens", "share of steps", yaxis_tickformat=".0%", yaxis_rangemode="tozero")
    for result in results:
        shares = result["acceptance_by_depth"]
        if shares:
            figure.add_scatter(
                name=result["drafter"],
                x=list(range(1, len(shares) + 1)),
                y=shares,
                mode="lines+markers",
                line_color=colour[result["drafter"]],
                hovertemplate="at least %{x}: %{y:.1%}",
            )
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
        figure.add_scatter(
            x=curve["tokens"],
            y=[1e3 * seconds for seconds in curve["seconds"]],
            mode="lines+markers",
            line_color=_COLOURS[0],
            hovertemplate="%{x} tokens: %{y:.1f} ms",
        )
    return figure
