"""How the commands of this folder run, and the option that several of them have."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from aded.budget import CostCurve
from aded.errors import AdedError

__all__ = ["curve_of", "new_app", "run"]


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


def curve_of(text: str) -> CostCurve:
    """A cost curve from a JSON file of `calibrate` or `bench`, or from "tokens:time" pairs separated by commas."""
    try:
        if Path(text).is_file():
            return CostCurve.from_json(json.loads(Path(text).read_text())["step_cost"])
        pairs = [pair.split(":") for pair in text.split(",")]
        return CostCurve([int(size) for size, _ in pairs], [float(time) for _, time in pairs])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise AdedError(
            f"--curve takes a file of `aded calibrate --json` or pairs like 1:11,2:14.8,8:36, not {text!r} ({error})"
        ) from error
