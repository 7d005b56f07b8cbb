"""Is anything slower, or worse, than at another commit? The same figures of both, in turns on this machine.

`python -m benchmarks.commits HEAD~5` compares that commit with the working tree: tokens a step on a recorded trace,
drafting and learning times, memory, and the model's step times. Ratios are of one turn each; the median counts.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aded.cli.options import numbers_of, plain_table
from aded.cli.progress import progress_bar
from aded.errors import AdedError
from benchmarks.command import new_app, run

__all__ = ["app", "compare"]

app = new_app()

ROOT = Path(__file__).parent.parent
TRACE = ROOT / "tests" / "data" / "smollm2.trace.safetensors"

Figures = dict[str, float]


def checked_out(commit: str, folder: Path) -> Path:
    """The package as it was at a commit, below `folder`.

    Raises:
        AdedError: git knows no such commit.
    """
    found = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "src"], capture_output=True, check=False)
    if found.returncode:
        raise AdedError(f"git has no commit {commit}: {found.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def measured(source: Path, arguments: Sequence[str]) -> Figures:
    """What probe.py finds of the package in a folder.

    Raises:
        AdedError: it failed.
    """
    command = [sys.executable, str(Path(__file__).with_name("probe.py")), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("FIGURES ")]
    if ended.returncode or not lines:
        raise AdedError(f"the figures of {source} cannot be had: {ended.stderr.strip().splitlines()[-1:]}")
    figures: Figures = json.loads(lines[0].removeprefix("FIGURES "))
    return figures


def compare(
    sources: Sequence[Path], arguments: Sequence[str], *, turns: int, progress: Callable[[int, int], None]
) -> list[list[Figures]]:
    """For each turn the figures of each source; each turn begins with another."""
    found = []
    for turn in range(turns):
        figures: list[Figures] = [{} for _ in sources]
        for i in range(len(sources)):
            at = (turn + i) % len(sources)
            figures[at] = measured(sources[at], arguments)
            progress(turn * len(sources) + i + 1, turns * len(sources))
        found.append(figures)
    return found


@app.command()
def main(
    before: Annotated[str, typer.Argument(help="A commit.")],
    after: Annotated[str | None, typer.Argument(help="Another one; the working tree if left out.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Measure both so often.")] = 3,
    trace: Annotated[Path, typer.Option(help="A recorded trace.")] = TRACE,
    answers: Annotated[int, typer.Option(min=1, help="Of the trace, from its beginning.")] = 40,
    widths: Annotated[str, typer.Option(help="Tokens of the model's steps, or none.")] = "1,2,4,8,16,32,64",
    model: Annotated[str, typer.Option(help="A hub id or folder; the embedded model if left out.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")] = False,
) -> None:
    """Compare two commits; prints a table of both and of their ratios."""
    sizes = "" if widths == "none" else ",".join(map(str, numbers_of(widths, "--widths")))
    arguments = [str(trace.resolve()), str(answers), sizes, model]
    with ExitStack() as stack, progress_bar("measured", lines=True) as progress:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        sources = [checked_out(before, folders[0])]
        sources.append(ROOT / "src" if after is None else checked_out(after, folders[1]))
        found = compare(sources, arguments, turns=turns, progress=progress)
    if as_json:
        print(json.dumps({"before": before, "after": after or "the working tree", "turns": found}))
        return
    table = plain_table()
    table.add_column("figure", no_wrap=True)
    for name in ("before", "after", "after /\nbefore", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    for figure in found[0][1]:
        table.add_row(figure, *_shown(figure, found))
    Console(highlight=False, width=100).print(table)


def _shown(figure: str, found: Sequence[Sequence[Figures]]) -> list[str]:
    pairs = [(turn[0].get(figure), turn[1].get(figure)) for turn in found]
    both = [(before, after) for before, after in pairs if before is not None and after is not None]
    if not both:
        return ["", f"{statistics.median(after for _, after in pairs if after is not None):.3f}", "", "", ""]
    ratios = [after / before if before else float(after == before) for before, after in both]
    medians = (statistics.median(values) for values in zip(*both, strict=True))
    return [*(f"{value:.3f}" for value in medians), *(f"{f(ratios):.3f}" for f in (statistics.median, min, max))]


if __name__ == "__main__":
    run(app)
