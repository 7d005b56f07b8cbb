"""`aded calibrate`: measure what a step costs here, and keep it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli.engines import load_model
from aded.cli.options import Compile, Dtype, Engine, Model, Threads, plain_table
from aded.errors import AdedError

__all__ = ["calibrate"]


def calibrate(
    engine: Engine = "transformers",
    model: Model = None,
    dtype: Dtype = None,
    threads: Threads = None,
    compile: Compile = False,
    parts: Annotated[bool, typer.Option("--parts", help="Also show where a step's time goes, plain and ours.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure a step's time against the tokens in it, and keep it for later runs. The first run does so by itself."""
    if parts and engine != "transformers":
        raise AdedError(
            f"a step's parts are told apart with transformers only; leave out --parts, or --engine {engine}"
        )
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
    spent: dict[int, list[dict[str, float]]] = {}
    if parts:
        from aded.engines.transformers.profile import PARTS, profile_step

        spent = {n: [profile_step(loaded.model, n, ours=ours) for ours in (False, True)] for n in (1, 8, 32)}
    if as_json:
        result: dict[str, Any] = {"model": loaded.name, "step_cost": curve.to_json()}
        if parts:
            result["parts"] = {str(n): {"plain": plain, "ours": ours} for n, (plain, ours) in spent.items()}
        print(json.dumps(result))
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
    if parts:
        table = plain_table()
        for column in ("ms in", *(f"{who}, {n}" for n in spent for who in ("plain", "ours"))):
            table.add_column(column, justify="left" if column == "ms in" else "right")
        for part in PARTS:
            table.add_row(part, *(f"{1e3 * taken[part]:.1f}" for pair in spent.values() for taken in pair))
        Console(highlight=False).print("\nWhere the time of a step of so many tokens goes\n", table, sep="\n")
    if not curve.steady:
        notes.print("The machine was busy meanwhile: this is not kept, the next run measures again.")
