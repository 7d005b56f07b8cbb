"""`aded state`: join and inspect files of what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aded.cli import options
from aded.representative.states import merge_states, state_facts
from aded.representative.storage import STATE

app = typer.Typer(no_args_is_help=True, help="Join and inspect what was learned.")


@app.command()
def merge(
    states: Annotated[list[Path], typer.Argument(help="State files of one model, the latest last.")],
    out: Annotated[Path, typer.Option(help="File to write; may be one of them.")],
    memory_mb: Annotated[
        float, typer.Option(min=1, max=options.MOST_MB, callback=options.finite, help="MiB of the joined table.")
    ] = 64.0,
) -> None:
    """Join what several servers learned, weighing what they say of a context by how often each saw it."""
    STATE.check_writable(out)
    table = merge_states(states, out, memory_mb)
    Console(stderr=True, highlight=False).print(f"{table.used} contexts, in {out}")


@app.command()
def info(state: Annotated[Path, typer.Argument(help="A state file.")], as_json: options.AsJson = False) -> None:
    """Say what a state file is of, and how much it holds."""
    options.show_facts(state_facts(state), as_json, width=14)
