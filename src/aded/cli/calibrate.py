"""`aded calibrate`: measure what a step costs here, and keep it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli.engines import load_model
from aded.cli.options import Compile, Dtype, Engine, Model, Threads, plain_table

__all__ = ["calibrate"]


def calibrate(
    engine: Engine = "transformers",
    model: Model = None,
    dtype: Dtype = None,
    threads: Threads = None,
    compile: Compile = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure a step's time against the tokens in it, and keep it for later runs. The first run does so by itself."""
    notes = Console(stderr=True, highlight=False)
    loaded: Any = load_model(
        engine,
        model,
        dtype=dtype,
        threads=threads,
        compile=compile,
        report=lambda text: notes.print(f"[dim]{text}[/dim]"),
    )
    curve = loaded.step_cost(compile=compile, renew=True)
    if as_json:
        print(json.dumps({"model": loaded.name, "step_cost": curve.to_json()}))
        return
    table = plain_table()
    for column in ("tokens in a step", "ms", "against one", "must accept to pay"):
        table.add_column(column, justify="right")
    for size, seconds in zip(curve.sizes, curve.seconds, strict=True):
        ratio = seconds / curve.seconds[0]
        pays = "" if size == 1 else f"{max(ratio - 1, 0):.2f} of {size - 1}"
        table.add_row(str(size), f"{1e3 * seconds:.1f}", f"{ratio:.2f}x", pays)
    facts = loaded.facts()
    about = f"{loaded.name}, {facts['dtype']}, {facts.get('threads_batch', facts['threads'])} threads"
    Console(highlight=False).print(f"{about}\n", table, sep="\n")
    if not curve.steady:
        notes.print("The machine was busy meanwhile: this is not kept, the next run measures again.")
