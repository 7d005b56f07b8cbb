"""`aded bench`: contenders against plain decoding in one run; `aded calibrate`: what a step costs here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli import options
from aded.cli.progress import progress_bar
from aded.errors import AdedError
from aded.files import replace

_DRAFTERS = {
    "transformers": "adaptive,prompt-lookup,token-recycling,hf-prompt-lookup,none",
    "llamacpp": "adaptive,prompt-lookup,llama-prompt-lookup-2,llama-prompt-lookup-10,none",
}


def bench(
    prompts: Annotated[Path, typer.Option(help="Spec-Bench or other JSON lines, or text lines.")],
    drafters: Annotated[
        str | None, typer.Option(help="Comma-separated names, the engine's own prompt lookup included.")
    ] = None,
    engine: options.Engine = "transformers",
    model: options.Model = None,
    limit: options.Limit = None,
    per_category: options.PerCategory = None,
    skip: options.Skip = 0,
    repeats: Annotated[int, typer.Option(min=1, max=10**6, help="Times each contender answers each prompt.")] = 3,
    max_new_tokens: options.NewTokens = 256,
    temperature: options.Temperature = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered at once; above 1, first turns only.")] = 1,
    context: Annotated[
        int | None, typer.Option(min=1, help="Put other prompts of the file before each, up to so many tokens.")
    ] = None,
    max_draft_tokens: options.MaxDraftTokens = "auto",
    compile: options.Compile = False,
    keep_state: Annotated[
        bool, typer.Option("--keep-state/--fresh", help="Learn from prompt to prompt, or begin each one anew.")
    ] = True,
    corpus: options.CorpusFile = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write environment and results here.")] = None,
    as_html: Annotated[Path | None, typer.Option("--html", help="Write a page of plots here.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the speedups in the terminal.")] = False,
) -> None:
    """Time contenders against plain decoding, checking every output. Ctrl-C keeps what was measured."""
    from aded.bench import terminal
    from aded.bench.contenders import contenders
    from aded.bench.environment import environment
    from aded.bench.live import Run, mat_by_nodes, measure
    from aded.bench.requests import lengthened
    from aded.bench.summary import summarise
    from aded.traces import read_prompts

    if as_html is not None:
        from aded.bench.page import page  # a missing package is known before the work begins
    for path in (as_json, as_html):
        if path is not None and not path.absolute().parent.is_dir():
            raise AdedError(f"there is no folder {path.absolute().parent} to write {path.name} in; make it first")
    chosen = read_prompts(prompts, limit=limit, per_category=per_category, skip=skip)
    names = options.words_of(drafters or _DRAFTERS.get(engine, "adaptive"), "--drafters")
    most = options.most_of(max_draft_tokens)
    console, notes = options.table_console(), Console(stderr=True, highlight=False, quiet=quiet)
    if engine == "llamacpp" and batch_size > 1:
        raise AdedError("llama.cpp answers one prompt at a time here; leave out --batch-size")
    loaded = options.load_model(
        engine, model, dtype=dtype, threads=threads, device=device, compile=compile, notes=notes
    )
    if context is not None:
        texts = [turn for prompt in read_prompts(prompts) for turn in prompt.turns]
        chosen = lengthened(chosen, texts, context, lambda text: len(loaded.encode(text)))
    entrants = contenders(names, loaded, most, corpus, compile=compile, engine=engine)
    replayed: dict[str, Any] = {"max_new_tokens": max_new_tokens, "keep_state": keep_state}
    answered = {**replayed, "temperature": temperature, "batch_size": batch_size}
    settings = {"prompts": str(prompts), "max_draft_tokens": max_draft_tokens, **answered}
    settings |= {"context": context, "compile": compile, "corpus": None if corpus is None else str(corpus)}
    report: dict[str, Any] = {"environment": environment(loaded), "settings": settings}
    runs: list[Run] = []
    stopped = False

    def save() -> None:
        sizes = {entrant.name: entrant.state_mb for entrant in entrants}
        report["results"] = summarise(runs, engine=engine, state_mb=sizes)
        report["runs"] = [asdict(run) for run in runs]
        if as_json is not None:
            replace(as_json, json.dumps(report, indent=1).encode())

    try:
        with progress_bar("requests", quiet=quiet, lines=True) as progress:
            for group in measure(loaded, entrants, chosen, repeats=repeats, progress=progress, **answered):
                runs.extend(group)
                save()
        report["step_cost"] = loaded.step_cost(compile=compile).to_json()
        if as_html is not None:
            with progress_bar("replay", quiet=quiet) as progress:
                report["mat_by_nodes"] = mat_by_nodes(loaded, entrants, chosen, progress=progress, **replayed)
    except KeyboardInterrupt:
        stopped = True
        notes.print("[dim]stopped; what follows was measured until then[/dim]")
    if not runs:
        raise AdedError("stopped before the first prompt was answered by all; nothing was measured")
    save()
    if as_html is not None:
        replace(as_html, page(report).encode())
    terminal.show(report, console)
    if plot:
        terminal.plot(report, console)
    if stopped:
        raise typer.Exit(130)
    ours = {entrant.name for entrant in entrants if not entrant.native}
    if any(result["differences"] for result in report["results"] if result["drafter"] in ours):
        raise typer.Exit(1)


def calibrate(
    engine: options.Engine = "transformers",
    model: options.Model = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    compile: options.Compile = False,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a step's time against the tokens in it, and keep it for later runs. The first run does so by itself."""
    notes = Console(stderr=True, highlight=False, quiet=quiet)
    loaded = options.load_model(
        engine, model, dtype=dtype, threads=threads, device=device, compile=compile, notes=notes
    )
    curve = loaded.step_cost(compile=compile, renew=True)
    if as_json:
        print(json.dumps({"model": loaded.name, "step_cost": curve.to_json()}))
        return
    table = options.plain_table()
    for column in ("tokens in a step", "ms", "against one", "must accept to pay"):
        table.add_column(column, justify="right")
    for size, seconds in zip(curve.sizes, curve.seconds, strict=True):
        ratio = seconds / curve.seconds[0]
        pays = "" if size == 1 else f"{max(ratio - 1, 0):.2f} of {size - 1}"
        table.add_row(str(size), f"{1e3 * seconds:.1f}", f"{ratio:.2f}x", pays)
    facts = loaded.facts()
    about = f"{loaded.name}, {facts['dtype']}, {facts.get('threads_batch', facts['threads'])} threads"
    options.table_console().print(f"{about}\n", table, sep="\n")
    if not curve.steady:
        notes.print("The machine was busy meanwhile: this is not kept, the next run measures again.")
