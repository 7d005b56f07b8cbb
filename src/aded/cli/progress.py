"""The progress of slow commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINES = 100  # at most, of one command in a log


@contextmanager
def progress_bar(title: str, *, quiet: bool = False, lines: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Progress on standard error: call it with what is done and the total.

    In a terminal it is a bar, which goes when it is done. Elsewhere it is nothing; or with `lines`, for what can take
    hours, a line for each thing done, or for each hundredth.
    """
    console = Console(stderr=True, quiet=quiet, highlight=False)
    if not console.is_terminal:
        if not lines:
            yield lambda done, total: None
            return
        shown = -1

        def line(done: int, total: int) -> None:
            nonlocal shown
            part = done if total <= _LINES else done * _LINES // total
            if part != shown:
                console.print(f"{title}: {done} of {total}")
            shown = part

        yield line
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
