"""All commands together."""

from __future__ import annotations

from typing import Annotated

import typer

import aded
from aded.cli import answer, bench, corpus, serve, state, trace
from aded.cli import chat as chatting
from aded.cli.options import Commands

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Decode language models faster, with exactly the same output.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"aded {aded.__version__}")
        raise typer.Exit


@app.callback()
def _(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    pass


app.command()(answer.generate)
app.command()(chatting.chat)
app.command()(serve.serve)
app.command()(bench.bench)
app.command()(bench.calibrate)
app.add_typer(trace.app, name="trace")
app.add_typer(corpus.app, name="corpus")
app.add_typer(state.app, name="state")
