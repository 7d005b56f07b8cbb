"""`aded generate`, and how answers and their figures are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli import options
from aded.cli.options import open_runner
from aded.cli.page import write_page
from aded.drafters.predicted import predicting
from aded.errors import AdedError
from aded.files import check_writable
from aded.serve.tracing import StepRecorder


def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")],
    engine: options.Engine = "transformers",
    model: options.Model = None,
    drafter: options.DrafterName = "adaptive",
    max_draft_tokens: options.MaxDraftTokens = "auto",
    compile: options.Compile = False,
    max_new_tokens: options.NewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = 0,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    state: options.State = None,
    corpus: options.CorpusFile = None,
    share: options.Share = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also decode plainly; show speedup and identity.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    show_drafts: options.ShowDrafts = False,
    prediction: Annotated[
        Path | None, typer.Option(help="A text file that the answer is expected to look like, as when it is edited.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the answer and its draft trees into one HTML file.")] = None,
) -> None:
    """Answer one prompt."""
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False, quiet=quiet)
    text = options.text_of(options.read_stdin() if prompt == "-" else prompt, "the prompt")
    expected = None if prediction is None else _text_in(prediction)
    if html is not None:
        check_writable(html, "the page")
    given = (engine, model, drafter, max_draft_tokens, compile, dtype, threads, device, state, corpus, share)
    runner = open_runner(*given, notes)
    ids = runner.loaded.prompt_ids([{"role": "user", "content": text}])
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    runner.warm_up(ids, max_new_tokens)
    plain = None
    if compare:
        plain = runner.plain(ids, **settings, on_text=None if as_json or quiet else printer(console, "without ADED"))
    title = "with ADED" if compare and not quiet else ""
    recorder = None if html is None else StepRecorder(runner.loaded, max_new_tokens)
    watched = {} if recorder is None else {"stats": recorder.counts}
    with runner.saving(state), predicting([] if expected is None else runner.loaded.encode(expected)):
        answer = runner.answer(ids, **settings, **watched, on_text=None if as_json else printer(console, title))
    if html is not None and recorder is not None:
        write_page(html, runner, drafter, text, recorder, answer, None if plain is None else plain.tokens_per_second)
    comparison = {} if plain is None else runner.compare(ids, plain, answer, **settings)
    ended = bool(answer.rows[0]) and answer.rows[0][-1] in runner.loaded.ends
    result = answer.summary() | {"finish_reason": "stop" if ended else "length"} | comparison
    if as_json:
        print(json.dumps(result))
    else:
        if show_drafts:
            console.rule("[dim]drafted tokens in green[/dim]", style="dim")
            console.print(answer.coloured())
        if not quiet:
            show_summary(console, result)
    if comparison and not comparison["identical"] and not comparison["tie"]:
        raise typer.Exit(1)


def _text_in(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdedError(f"cannot read the prediction {file}: {error}; give a text file") from error


def printer(console: Console, title: str) -> Callable[[str], None]:
    """What prints text as it comes, below a title."""
    if title:
        console.rule(f"[bold]{title}[/bold]", style="dim")
    return lambda text: console.print(text, end="", markup=False, soft_wrap=True)


def show_summary(console: Console, result: dict[str, Any]) -> None:
    parts = [
        f"{result['tokens']} tokens",
        f"{result['tokens_per_second']:.1f} tokens/s",
        f"{result['mean_accepted_tokens']:.2f} tokens a step",
        f"first after {result['time_to_first_token_s'] * 1000:.0f} ms",
    ]
    console.print(f"[dim]{' · '.join(parts)}[/dim]")
    if "speedup" not in result:
        return
    baseline = result["baseline_tokens_per_second"]
    console.print(f"[bold]{result['speedup']:.2f}x[/bold] against {baseline:.1f} tokens/s without ADED")
    if result["identical"]:
        same = ", bit for bit" if result["exact"] == "generate" else ""
        console.print(f"[green]identical to decoding without ADED{same}[/green]")
        return
    where = f"first difference at token {result['first_difference']}"
    if result["margin"] is not None:
        where += f", {result['margin']:.3g} below the best score (rounding noise {result['noise']:.3g})"
    verdict = "[yellow]a tie within rounding[/yellow]" if result["tie"] else "[red]not a tie[/red]"
    console.print(f"{verdict}: {where}")
