"""All commands together."""

from __future__ import annotations

import typer

from aded.cli import answer, bench, corpus, serve, trace
from aded.cli.options import Commands

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Decode language models faster, with exactly the same output.",
)
app.command()(answer.generate)
app.command()(answer.chat)
app.command()(serve.serve)
app.command()(bench.bench)
app.command()(bench.calibrate)
app.add_typer(trace.app, name="trace")
app.add_typer(corpus.app, name="corpus")
