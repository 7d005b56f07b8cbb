"""The report in a terminal: a table, and on request bars."""

from __future__ import annotations

from typing import Any

from rich.bar import Bar
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from aded.bench.contenders import PLAIN


def show(report: dict[str, Any], console: Console) -> None:
    """Print the figures of every contender, then speedups by category; of long prompts, decoding's alone as well."""
    environment, results = report["environment"], report["results"]
    long = report["settings"].get("context") is not None  # then the prompts are most of the work
    title = (
        f"{environment['model']} ({environment['dtype']}, {environment['threads']} threads): "
        f"{results[0]['prompts']} requests, {results[0]['repeats']} times"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, show_edge=False, padding=0)
    fourth = "decoding" if long else "quartiles"
    for name in ("contender", "tokens/s", "speedup", fourth, "MAT", "first", "drafting", "outputs"):
        table.add_column(name, justify="left" if name in ("contender", "outputs") else "right", no_wrap=True)
    for result in results:
        looped = result["draft_share"] + result["verify_share"] > 0
        table.add_row(
            result["drafter"],
            f"{result['tokens_per_second']:.1f}",
            f"[bold]{result['speedup']:.2f}x[/bold]",
            _after_first(result) if long else f"{result['speedup_low']:.2f}-{result['speedup_high']:.2f}",
            f"{result['mat']:.2f}",
            f"{result['time_to_first_token_s']:.2f} s",
            f"{result['draft_share'] + result['learn_share']:.1%}" if looped else "",
            _outputs(result),
        )
    console.print(table)
    if groups := _by_category(results):
        title = "Median speedup by category"
        parts = Table("category", title=title, title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False)
        for result in results[1:]:
            parts.add_column(result["drafter"], justify="right")
        for category, speedups in groups.items():
            parts.add_row(category, *(f"{speedup:.2f}x" for speedup in speedups[1:]))
        console.print(parts)


def plot(report: dict[str, Any], console: Console) -> None:
    """Draw every contender's median speedup as a bar, over all requests and by category."""
    results = report["results"]
    names = [result["drafter"] for result in results]
    groups = {"all requests": [result["speedup"] for result in results], **_by_category(results)}
    most, width = max(map(max, groups.values())), max(map(len, names))
    for title, speedups in groups.items():
        console.print(f"[bold]{title}[/bold]")
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=width, no_wrap=True)
        grid.add_column(width=max(min(console.width, 100) - width - 8, 10))
        grid.add_column(justify="right")
        for name, speedup in zip(names, speedups, strict=True):
            colour = "bright_black" if name == PLAIN else "green" if speedup > 1 else "red"
            grid.add_row(name, Bar(most, 0, speedup, color=colour), f"{speedup:.2f}x")
        console.print(grid)


def _by_category(results: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Every contender's speedup in each category; nothing where one category is all there is."""
    found = {name: [result["by_category"][name]["speedup"] for result in results] for name in results[0]["by_category"]}
    return found if len(found) > 1 else {}


def _after_first(result: dict[str, Any]) -> str:
    """The speedup without the prompts' time."""
    return "" if result["speedup_after_first"] is None else f"{result['speedup_after_first']:.2f}x"


def _outputs(result: dict[str, Any]) -> str:
    if result["identical"]:
        return "[green]same bits[/green]" if result["exact"] == "generate" else "[green]same[/green]"
    if result["differences"]:
        return f"[red]{result['differences']} differ[/red], {result['ties']} tie"
    same = result["prompts"] - result["ties"]
    return f"[green]{same} same[/green], [yellow]{result['ties']} tie[/yellow]"
