"""How the commands of this folder run."""

from __future__ import annotations

import sys

import typer

from aded.errors import AdedError

__all__ = ["new_app", "run"]


def new_app() -> typer.Typer:
    """An application for one command."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer) -> None:
    """Run the command; a foreseen failure is one line on standard error and exit code 2, as with `aded`."""
    try:
        app()
    except (AdedError, ModuleNotFoundError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)
