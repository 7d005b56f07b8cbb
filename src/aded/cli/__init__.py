"""The command line."""

from __future__ import annotations

import sys

from aded.errors import AdedError

try:
    import typer

    from aded.cli import answer, bench, corpus, trace
    from aded.cli.options import Commands
except ModuleNotFoundError:  # pragma: no cover - only without the extra
    sys.exit('the aded command needs its extra: pip install "aded[cli]"')

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Decode language models faster, with exactly the same output.",
)
app.command()(answer.generate)
app.command()(answer.chat)
app.command()(bench.bench)
app.command()(bench.calibrate)
app.add_typer(trace.app, name="trace")
app.add_typer(corpus.app, name="corpus")


def main() -> None:
    """Run the command; a foreseen failure is one line on standard error and exit code 2."""
    try:
        app()
    except (AdedError, ModuleNotFoundError) as error:
        print(f"aded: {error}", file=sys.stderr)
        sys.exit(2)
