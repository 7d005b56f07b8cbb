"""`aded trace`: record what a model says, replay drafters against it without the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli import options
from aded.cli.progress import progress_bar
from aded.errors import AdedError, CorpusFileError
from aded.representative import Corpus

app = typer.Typer(no_args_is_help=True, help="Record what a model says; replay drafters against it without the model.")


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="File to write, or a folder for trace.safetensors.")],
    prompts: Annotated[Path | None, typer.Option(help="Spec-Bench or other JSON lines, or text lines.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Instead of --prompts: JSON lines with prompt and output.")] = None,
    engine: options.Engine = "transformers",
    model: options.Model = None,
    limit: options.Limit = None,
    per_category: options.PerCategory = None,
    skip: options.Skip = 0,
    max_new_tokens: options.NewTokens = 256,
    top_k: Annotated[int, typer.Option(min=1, max=1024, help="Likeliest tokens kept at each position.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Prompts decoded together.")] = 8,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Decode prompts plainly and keep every token with the model's likeliest ones. Stopped, it goes on next time."""
    from aded.traces import read_prompts
    from aded.traces.record import from_texts
    from aded.traces.record import record as record_trace

    source = prompts or texts
    if source is None or (prompts and texts):
        raise AdedError("give either --prompts FILE or --texts FILE")
    console = Console(stderr=True, highlight=False, quiet=quiet)
    chosen = read_prompts(source, limit=limit, per_category=per_category, skip=skip)
    loaded = options.load_model(engine, model, dtype=dtype, threads=threads, device=device, notes=console)
    if texts is not None:
        trace = from_texts(loaded, chosen, out)
    else:
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "top_k": top_k, "batch_size": batch_size}
        settings |= {"temperature": temperature, "seed": seed}
        with progress_bar("answers", quiet=quiet, lines=True) as progress:
            trace = record_trace(loaded, chosen, out, progress=progress, **settings)
    console.print(f"{len(trace.sequences)} answers, {trace.tokens} tokens, in {out}")


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(help="A recorded trace.")],
    drafters: Annotated[str, typer.Option(help="Comma-separated names.")] = "adaptive",
    max_draft_tokens: Annotated[
        str, typer.Option(help="Most nodes of a draft; several, comma-separated.")
    ] = "16,32,64",
    warm: Annotated[Path | None, typer.Option(help="Another trace, learned first.")] = None,
    corpus: options.CorpusFile = None,
    keep_state: Annotated[
        bool, typer.Option("--keep-state/--fresh", help="Go on learning over the trace, or begin each answer anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list and nothing else.")] = False,
) -> None:
    """Run drafters against a trace without any model."""
    from aded.drafters import create, takes
    from aded.representative.storage import check_identity
    from aded.traces.replay import replay as run
    from aded.traces.trace import Trace

    names = options.words_of(drafters, "--drafters")
    budgets = options.numbers_of(max_draft_tokens, "--max-draft-tokens")
    for name in names:
        create(name)  # an unknown name or a missing package is known before the work begins
    recorded = Trace.load(trace)
    opened = None if corpus is None else Corpus.open(corpus)
    if opened is not None:
        about = {key: recorded.about.get(key) for key in ("vocab_size", "fingerprint")}
        check_identity(about, opened.identity(), "the corpus", orders=False, error=CorpusFileError)
    learned = None if warm is None else Trace.load(warm)
    results: list[Any] = []
    total, done = len(names) * len(budgets) * len(recorded.sequences), count(1)
    with progress_bar("replay") as progress:
        common: dict[str, Any] = {"warm": learned, "keep_state": keep_state}
        common["progress"] = lambda _: progress(next(done), total)
        for name, budget in product(names, budgets):
            make = partial(create, name, **({"corpus": opened} if takes(name, "corpus") else {}))
            results.append(run(recorded, name, make, budget, **common))
    if as_json:
        print(json.dumps([asdict(result) for result in results]))
        return
    table = options.plain_table()
    for column in ("drafter", "nodes", "MAT", "nodes used", "draft ms", "learn ms", "state MB"):
        table.add_column(column, justify="left" if column == "drafter" else "right", no_wrap=True)
    for result in results:
        table.add_row(
            result.drafter,
            str(result.max_draft_tokens),
            f"[bold]{result.mat:.3f}[/bold]",
            f"{result.nodes_used:.1f}",
            f"{result.draft_ms:.2f}",
            f"{result.learn_ms:.2f}",
            "" if result.state_mb is None else f"{result.state_mb:.1f}",
        )
    console = options.table_console()
    console.print(f"{len(recorded.sequences)} answers, {recorded.tokens} tokens\n", table, sep="\n")
    largest = {result.drafter: result for result in sorted(results, key=lambda result: result.max_draft_tokens)}
    table = options.plain_table()
    table.add_column("category", no_wrap=True)
    for name in largest:
        table.add_column(name, justify="right")
    for category in results[0].by_category:
        table.add_row(category, *(f"{result.by_category[category]['mat']:.2f}" for result in largest.values()))
    console.print("\nMAT by category, largest budget\n", table, sep="\n")
