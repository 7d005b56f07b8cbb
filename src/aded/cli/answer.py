"""`aded generate` and `aded chat`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli.engines import open_runner
from aded.cli.options import (
    Compile,
    CorpusFile,
    DrafterName,
    Dtype,
    Engine,
    MaxDraftTokens,
    Model,
    NewTokens,
    Seed,
    ShowDrafts,
    State,
    Temperature,
    Threads,
    TopP,
    most_of,
)

__all__ = ["chat", "generate"]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")],
    engine: Engine = "transformers",
    model: Model = None,
    drafter: DrafterName = "adaptive",
    max_draft_tokens: MaxDraftTokens = "auto",
    compile: Compile = False,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    dtype: Dtype = None,
    threads: Threads = None,
    state: State = None,
    corpus: CorpusFile = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also decode plainly; show speedup and identity.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    show_drafts: ShowDrafts = False,
) -> None:
    """Answer one prompt."""
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    runner = open_runner(
        engine,
        model=model,
        drafter=drafter,
        max_draft_tokens=most_of(max_draft_tokens),
        compile=compile,
        dtype=dtype,
        threads=threads,
        state=state,
        corpus=corpus,
        report=lambda text: notes.print(f"[dim]{text}[/dim]"),
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    ids = runner.loaded.prompt_ids([{"role": "user", "content": text}])
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    runner.warm_up(ids, max_new_tokens)
    plain = None
    if compare:
        plain = runner.plain(ids, **settings, on_text=None if as_json else _printer(console, "without ADED"))
    answer = runner.answer(
        ids, **settings, on_text=None if as_json else _printer(console, "with ADED" if compare else "")
    )
    if state is not None:
        runner.save(state)
    result: dict[str, Any] = answer.summary()
    comparison = runner.compare(ids, plain, answer, **settings) if plain is not None else None
    if comparison is not None:
        result.update(comparison)
    if as_json:
        print(json.dumps(result))
    else:
        if show_drafts:
            console.rule("[dim]drafted tokens in green[/dim]", style="dim")
            console.print(answer.coloured())
        _summary(console, result)
    if comparison is not None and not comparison["identical"] and not comparison["tie"]:
        raise typer.Exit(1)


def chat(
    engine: Engine = "transformers",
    model: Model = None,
    drafter: DrafterName = "adaptive",
    max_draft_tokens: MaxDraftTokens = "auto",
    compile: Compile = False,
    max_new_tokens: NewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    dtype: Dtype = None,
    threads: Threads = None,
    state: State = None,
    corpus: CorpusFile = None,
    show_drafts: ShowDrafts = False,
) -> None:
    """Talk to a model; what it learns is kept between turns and, with --state, between runs. End with Ctrl-D."""
    console = Console(highlight=False)
    runner = open_runner(
        engine,
        model=model,
        drafter=drafter,
        max_draft_tokens=most_of(max_draft_tokens),
        compile=compile,
        dtype=dtype,
        threads=threads,
        state=state,
        corpus=corpus,
        report=lambda text: console.print(f"[dim]{text}[/dim]"),
    )
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not text:
            continue
        messages.append({"role": "user", "content": text})
        ids = runner.loaded.prompt_ids(messages)
        try:
            answer = runner.answer(
                ids,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed + len(messages) // 2,
                on_text=_printer(console, ""),
            )
        except KeyboardInterrupt:
            messages.pop()
            console.print("[dim]\nstopped[/dim]")
            continue
        messages.append({"role": "assistant", "content": answer.text})
        if show_drafts:
            console.print(answer.coloured())
        _summary(console, answer.summary())
        if state is not None:
            runner.save(state)


def _printer(console: Console, title: str) -> Callable[[str], None]:
    """Prints text as it comes; None ends the line."""
    if title:
        console.rule(f"[bold]{title}[/bold]", style="dim")

    def show(text: str) -> None:
        console.print(text, end="", markup=False, soft_wrap=True)

    return show


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
        console.print("[green]identical output[/green]")
        return
    where = f"first difference at token {result['first_difference']}"
    if result["margin"] is not None:
        where += f", {result['margin']:.3g} below the best score (rounding noise {result['noise']:.3g})"
    verdict = "[yellow]a tie within rounding[/yellow]" if result["tie"] else "[red]not a tie[/red]"
    console.print(f"{verdict}: {where}")
