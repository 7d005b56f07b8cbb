"""`aded generate` and `aded chat`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli import options
from aded.cli.options import open_runner
from aded.errors import AdedError


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
    state: options.State = None,
    corpus: options.CorpusFile = None,
    share: options.Share = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also decode plainly; show speedup and identity.")] = False,
    as_json: options.AsJson = False,
    show_drafts: options.ShowDrafts = False,
) -> None:
    """Answer one prompt."""
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    text = options.text_of(options.read_stdin() if prompt == "-" else prompt, "the prompt")
    given = (engine, model, drafter, max_draft_tokens, compile, dtype, threads, state, corpus, share)
    runner = open_runner(*given, notes)
    ids = runner.loaded.prompt_ids([{"role": "user", "content": text}])
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    runner.warm_up(ids, max_new_tokens)
    plain = None
    if compare:
        plain = runner.plain(ids, **settings, on_text=None if as_json else _printer(console, "without ADED"))
    title = "with ADED" if compare else ""
    with runner.saving(state):
        answer = runner.answer(ids, **settings, on_text=None if as_json else _printer(console, title))
    comparison = {} if plain is None else runner.compare(ids, plain, answer, **settings)
    result = answer.summary() | comparison
    if as_json:
        print(json.dumps(result))
    else:
        if show_drafts:
            console.rule("[dim]drafted tokens in green[/dim]", style="dim")
            console.print(answer.coloured())
        _summary(console, result)
    if comparison and not comparison["identical"] and not comparison["tie"]:
        raise typer.Exit(1)


def chat(
    engine: options.Engine = "transformers",
    model: options.Model = None,
    drafter: options.DrafterName = "adaptive",
    max_draft_tokens: options.MaxDraftTokens = "auto",
    compile: options.Compile = False,
    max_new_tokens: options.NewTokens = 512,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = 0,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    state: options.State = None,
    corpus: options.CorpusFile = None,
    share: options.Share = None,
    show_drafts: options.ShowDrafts = False,
) -> None:
    """Talk to a model; what it learns is kept between turns and, with --state, between runs. End with Ctrl-D."""
    console = Console(highlight=False)
    given = (engine, model, drafter, max_draft_tokens, compile, dtype, threads, state, corpus, share)
    runner = open_runner(*given, console)
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    messages: list[dict[str, str]] = []
    while True:
        try:
            said = console.input("[bold]> [/bold]").strip()
        except EOFError:
            console.print()
            return
        except UnicodeDecodeError as error:
            raise AdedError(f"what was said is not valid UTF-8 ({error}); convert it") from error
        if not said:
            continue
        messages.append({"role": "user", "content": options.text_of(said, "what was said")})
        ids = runner.loaded.prompt_ids(messages)
        try:
            with runner.saving(state):
                turn = seed + len(messages) // 2
                answer = runner.answer(ids, **settings, seed=turn, on_text=_printer(console, ""))
        except KeyboardInterrupt:
            messages.pop()
            console.print("[dim]\nstopped[/dim]")
            continue
        messages.append({"role": "assistant", "content": answer.text})
        if show_drafts:
            console.print(answer.coloured())
        _summary(console, answer.summary())


def _printer(console: Console, title: str) -> Callable[[str], None]:
    """What prints text as it comes, below a title."""
    if title:
        console.rule(f"[bold]{title}[/bold]", style="dim")
    return lambda text: console.print(text, end="", markup=False, soft_wrap=True)


def _summary(console: Console, result: dict[str, Any]) -> None:
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
