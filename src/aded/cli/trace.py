"""`aded trace`: record what a model says, replay drafters against it without the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aded.cli.engines import load_model
from aded.cli.options import (
    CorpusFile,
    Dtype,
    Engine,
    Limit,
    Model,
    NewTokens,
    PerCategory,
    Seed,
    Skip,
    Temperature,
    Threads,
    numbers_of,
    plain_table,
    words_of,
)
from aded.cli.progress import progress_bar
from aded.errors import AdedError, CorpusFileError
from aded.representative import Corpus

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Record what a model says; replay drafters against it without the model.")


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="File to write, or a folder for trace.safetensors.")],
    prompts: Annotated[Path | None, typer.Option(help="Spec-Bench or other JSON lines, or text lines.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Instead of --prompts: JSON lines with prompt and output."),
    ] = None,
    engine: Engine = "transformers",
    model: Model = None,
    limit: Limit = None,
    per_category: PerCategory = None,
    skip: Skip = 0,
    max_new_tokens: NewTokens = 256,
    top_k: Annotated[int, typer.Option(min=1, help="Likeliest tokens kept at each position.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts decoded together.")] = 8,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    dtype: Dtype = None,
    threads: Threads = None,
) -> None:
    """Decode prompts plainly and keep every token with the model's likeliest ones. Stopped, it goes on next time."""
    from aded.traces import read_prompts
    from aded.traces.record import from_texts
    from aded.traces.record import record as record_trace

    if (prompts is None) == (texts is None):
        raise AdedError("give either --prompts FILE or --texts FILE")
    console = Console(stderr=True, highlight=False)
    source = prompts if prompts is not None else texts
    assert source is not None
    chosen = read_prompts(source, limit=limit, per_category=per_category, skip=skip)
    loaded = load_model(
        engine, model, dtype=dtype, threads=threads, report=lambda text: console.print(f"[dim]{text}[/dim]")
    )
    if texts is not None:
        trace = from_texts(loaded, chosen, out)
    else:
        with progress_bar("answers") as progress:
            trace = record_trace(
                loaded,
                chosen,
                out,
                max_new_tokens=max_new_tokens,
                top_k=top_k,
                batch_size=batch_size,
                temperature=temperature,
                seed=seed,
                progress=progress,
            )
    console.print(f"{len(trace.sequences)} answers, {trace.tokens} tokens, in {out}")


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(help="A recorded trace.")],
    drafters: Annotated[str, typer.Option(help="Comma-separated names.")] = "adaptive",
    max_draft_tokens: Annotated[
        str, typer.Option(help="Most nodes of a draft; several, comma-separated.")
    ] = "16,32,64",
    warm: Annotated[Path | None, typer.Option(help="Another trace, learned first.")] = None,
    corpus: CorpusFile = None,
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

    names, budgets = words_of(drafters, "--drafters"), numbers_of(max_draft_tokens, "--max-draft-tokens")
    for name in names:
        create(name)  # an unknown name or a missing package is known before the work begins
    recorded = Trace.load(trace)
    opened = None if corpus is None else Corpus.open(corpus)
    if opened is not None:
        about = {key: recorded.about.get(key) for key in ("vocab_size", "fingerprint")}
        check_identity(about, opened.identity(), "the corpus", orders=False, error=CorpusFileError)

    def make(name: str) -> Any:
        return create(name, **({"corpus": opened} if opened is not None and takes(name, "corpus") else {}))

    learned = None if warm is None else Trace.load(warm)
    results: list[Any] = []
    with progress_bar("replay") as progress:
        total = len(names) * len(budgets) * len(recorded.sequences)
        for name in names:
            for budget in budgets:
                before = len(results) * len(recorded.sequences)
                results.append(
                    run(
                        recorded,
                        name,
                        lambda name=name: make(name),  # type: ignore[misc]
                        budget,
                        warm=learned,
                        keep_state=keep_state,
                        progress=lambda done, before=before: progress(before + done, total),  # type: ignore[misc]
                    )
                )
    if as_json:
        print(json.dumps([asdict(result) for result in results]))
        return
    table = plain_table()
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
    console = Console(highlight=False)
    console.print(f"{len(recorded.sequences)} answers, {recorded.tokens} tokens\n", table, sep="\n")
    console.print("\nMAT by category, largest budget\n", _by_category(results), sep="\n")


def _by_category(results: list[Any]) -> Table:
    """MAT of each category at the largest budget of each drafter."""
    largest = {result.drafter: result for result in sorted(results, key=lambda r: r.max_draft_tokens)}
    table = plain_table()
    table.add_column("category", no_wrap=True)
    for name in largest:
        table.add_column(name, justify="right")
    for category in next(iter(largest.values())).by_category:
        table.add_row(category, *(f"{result.by_category[category]['mat']:.2f}" for result in largest.values()))
    return table
