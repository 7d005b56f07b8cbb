"""Ways to speculate in a server, compared: `python -m benchmarks.servers --prompts FILE --model MODEL`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from aded.cli.options import Temperature, numbers_of, plain_table, table_console, words_of
from aded.errors import AdedError, UnknownDrafterError
from aded.files import digest
from aded.traces.prompts import read_prompts
from benchmarks.command import new_app, run
from benchmarks.record import Record
from benchmarks.serving import ENGINES, Measured, compare, summarise

__all__ = ["app"]

app = new_app()

METHODS = "none,ngram,aded"


@app.command()
def main(
    prompts: Annotated[Path, typer.Option(help="Spec-Bench or other JSON lines, or text lines.")],
    model: Annotated[str, typer.Option(help="What is to be served.")],
    engine: Annotated[str, typer.Option(help="vllm or sglang.")] = "vllm",
    methods: Annotated[str, typer.Option(help="Of none, ngram, aded; of vLLM suffix and aded-v2 too.")] = METHODS,
    concurrency: Annotated[str, typer.Option(help="Requests at once, comma-separated.")] = "1,4,16",
    requests: Annotated[int, typer.Option(min=1, help="At each concurrency, or thrice as many as at once.")] = 24,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of an answer.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="How often to go through all of it.")] = 1,
    temperature: Temperature = 0.0,
    serve: Annotated[str, typer.Option(help="Further arguments of the server.")] = "--dtype bfloat16",
    record: Annotated[Path | None, typer.Option(help="Write figures to this file, and go on from those in it.")] = None,
) -> None:
    """Serve a model with and without speculation and measure each with the engine's own benchmark client."""
    if (served := ENGINES.get(engine)) is None:
        raise AdedError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    names, sizes = words_of(methods, "--methods"), numbers_of(concurrency, "--concurrency")
    if unknown := [name for name in names if name not in served.methods]:
        raise UnknownDrafterError(f"there is no way {', '.join(unknown)}; choose of {', '.join(served.methods)}")
    if min(sizes) < 1:
        raise AdedError("--concurrency takes numbers from 1 on")
    texts = [prompt.turns[0] for prompt in read_prompts(prompts)]
    settings: dict[str, Any] = {
        "engine": engine,
        "model": Path(model).name,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "serve": serve,
    }
    settings |= {"max_new_tokens": max_new_tokens, "requests": requests, "concurrency": concurrency}
    settings |= {"temperature": temperature, "prompts": digest("\n".join(texts).encode())}
    console, kept = table_console(), Record(Measured, record, settings)
    with TemporaryDirectory() as folder:
        for result in compare(
            served,
            model,
            texts,
            methods=names,
            concurrencies=sizes,
            requests=requests,
            max_new_tokens=max_new_tokens,
            repeats=repeats,
            temperature=temperature,
            arguments=shlex.split(serve),
            logs=Path(folder),
            record=kept,
        ):
            console.print(f"{result.method}, {result.concurrency} at once: {result.tokens_per_second:.1f} tokens/s")
    table = plain_table()
    for name in (
        "at\nonce",
        "way",
        "tokens\n/s",
        "against\nnone",
        "ms a\ntoken",
        "ms to\nfirst",
        "drafted\naccepted",
        "length",
    ):
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    for row in summarise(kept.rows):
        against = "" if row.against_none is None else f"{row.against_none:.2f}x"
        if repeats > 1 and row.method != "none" and against:
            against += f" ({row.least:.2f}-{row.most:.2f})"
        table.add_row(
            str(row.concurrency),
            row.method,
            f"{row.tokens_per_second:.1f}",
            against,
            f"{row.token_ms:.1f}",
            f"{row.first_ms:.0f}",
            "" if row.accepted is None else f"{row.accepted:.0%}",
            "" if row.acceptance_length is None else f"{row.acceptance_length:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    run(app)
