"""`aded bench`: contenders against plain decoding, live and in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli.engines import load_model
from aded.cli.options import (
    Compile,
    CorpusFile,
    Dtype,
    Engine,
    Limit,
    MaxDraftTokens,
    Model,
    NewTokens,
    PerCategory,
    Skip,
    Temperature,
    Threads,
    most_of,
    words_of,
)
from aded.cli.progress import progress_bar
from aded.errors import AdedError
from aded.files import replace

__all__ = ["bench"]

_DRAFTERS = {
    "transformers": "adaptive,prompt-lookup,token-recycling,hf-prompt-lookup,none",
    "llamacpp": "adaptive,prompt-lookup,llama-prompt-lookup-2,llama-prompt-lookup-10,none",
}


def bench(
    prompts: Annotated[Path, typer.Option(help="Spec-Bench or other JSON lines, or text lines.")],
    drafters: Annotated[
        str | None, typer.Option(help="Comma-separated names, the engine's own prompt lookup included.")
    ] = None,
    engine: Engine = "transformers",
    model: Model = None,
    limit: Limit = None,
    per_category: PerCategory = None,
    skip: Skip = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times each prompt is answered by each contender.")] = 3,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered at once; above 1, first turns only.")] = 1,
    context: Annotated[
        int | None, typer.Option(min=1, help="Put other prompts of the file before each, up to so many tokens.")
    ] = None,
    max_draft_tokens: MaxDraftTokens = "auto",
    compile: Compile = False,
    keep_state: Annotated[
        bool, typer.Option("--keep-state/--fresh", help="Learn from prompt to prompt, or begin each one anew.")
    ] = True,
    corpus: CorpusFile = None,
    dtype: Dtype = None,
    threads: Threads = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write environment and results here.")] = None,
    as_html: Annotated[Path | None, typer.Option("--html", help="Write a page of plots here.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the speedups in the terminal.")] = False,
) -> None:
    """Time contenders against plain decoding, checking every output. Ctrl-C keeps what was measured."""
    from aded.bench import terminal
    from aded.bench.contenders import contenders
    from aded.bench.environment import environment
    from aded.bench.live import Run, measure
    from aded.bench.requests import lengthened
    from aded.bench.summary import as_rows, summarise
    from aded.traces import read_prompts

    if as_html is not None:
        from aded.bench.page import page  # a missing package is known before the work begins
    for path in (as_json, as_html):
        if path is not None and not path.absolute().parent.is_dir():
            raise AdedError(f"there is no folder {path.absolute().parent} to write {path.name} in; make it first")
    chosen = read_prompts(prompts, limit=limit, per_category=per_category, skip=skip)
    names, most = words_of(drafters or _DRAFTERS.get(engine, "adaptive"), "--drafters"), most_of(max_draft_tokens)
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    if engine == "llamacpp" and batch_size > 1:
        raise AdedError("llama.cpp answers one prompt at a time here; leave out --batch-size")
    loaded = load_model(
        engine,
        model,
        dtype=dtype,
        threads=threads,
        compile=compile,
        report=lambda text: notes.print(f"[dim]{text}[/dim]"),
    )
    if context is not None:
        texts = [turn for prompt in read_prompts(prompts) for turn in prompt.turns]
        chosen = lengthened(chosen, texts, context, lambda text: len(loaded.encode(text)))
    entrants = contenders(names, loaded, most, corpus, compile=compile, engine=engine)
    settings = {
        "prompts": str(prompts),
        "max_draft_tokens": max_draft_tokens,
        "max_new_tokens": max_new_tokens,
        "keep_state": keep_state,
    }
    settings |= {"temperature": temperature, "batch_size": batch_size, "context": context, "compile": compile}
    settings["corpus"] = None if corpus is None else str(corpus)
    report: dict[str, Any] = {"environment": environment(loaded), "settings": settings, "results": []}
    runs: list[Run] = []

    def save() -> None:
        sizes = {entrant.name: entrant.state_mb for entrant in entrants}
        report["results"] = summarise(runs, engine=engine, state_mb=sizes)
        report["runs"] = as_rows(runs)
        if as_json is not None:
            replace(as_json, json.dumps(report, indent=1).encode())

    try:
        with progress_bar("requests") as progress:
            options: dict[str, Any] = {
                "repeats": repeats,
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
                "batch_size": batch_size,
                "keep_state": keep_state,
                "progress": progress,
            }
            for group in measure(loaded, entrants, chosen, **options):
                runs.extend(group)
                save()
        report["step_cost"] = loaded.step_cost(compile=compile).to_json()
        if as_html is not None:
            from aded.bench.offline import mat_by_nodes

            with progress_bar("replay") as progress:
                options = {"max_new_tokens": max_new_tokens, "keep_state": keep_state, "progress": progress}
                report["mat_by_nodes"] = mat_by_nodes(loaded, entrants, chosen, **options)
    except KeyboardInterrupt:
        notes.print("[dim]stopped; what follows was measured until then[/dim]")
    if not runs:
        raise AdedError("stopped before the first prompt was answered by all; nothing was measured")
    save()
    if as_html is not None:
        replace(as_html, page(report).encode())
    terminal.show(report, console)
    if plot:
        terminal.plot(report, console)
    ours = {entrant.name for entrant in entrants if not entrant.native}
    if any(result["differences"] for result in report["results"] if result["drafter"] in ours):
        raise typer.Exit(1)
