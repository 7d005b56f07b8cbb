"""The command line: `aded generate` and `aded chat`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from aded.errors import AdedError

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError:  # pragma: no cover - only without the extra
    sys.exit('the aded command needs its extra: pip install "aded[cli]"')

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Decode language models faster, with exactly the same output.",
)

Model = Annotated[str | None, typer.Option(help="Hub id, folder or GGUF file. Default: the embedded SmolLM2-135M.")]
DrafterName = Annotated[str, typer.Option("--drafter", help="Who drafts: adaptive, paper, prompt-lookup, ...")]
Nodes = Annotated[str, typer.Option(help="Most draft tokens verified a step, or auto: as many as pay here.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most tokens to generate.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 decodes greedily; above, samples.")]
TopP = Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest tokens of this total.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads. Default: torch's.")]
State = Annotated[Path | None, typer.Option(help="Keep what is learned in this file between runs.")]
ShowDrafts = Annotated[bool, typer.Option("--show-drafts", help="Colour the tokens that came from drafts.")]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")],
    model: Model = None,
    drafter: DrafterName = "adaptive",
    nodes: Nodes = "auto",
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    dtype: Dtype = "bfloat16",
    threads: Threads = None,
    state: State = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also decode plainly; show speedup and identity.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    show_drafts: ShowDrafts = False,
) -> None:
    """Answer one prompt."""
    from aded.engines.transformers.runner import Runner

    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    runner = Runner.open(
        model,
        drafter=drafter,
        nodes=_nodes(nodes),
        dtype=dtype,
        threads=threads,
        state=state,
        report=lambda text: notes.print(f"[dim]{text}[/dim]"),
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    ids = runner.loaded.prompt_ids([{"role": "user", "content": text}])
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    runner.warm_up(ids)
    plain = None
    if compare:
        plain = runner.plain(ids, **settings, on_text=None if as_json else _printer(console, "without ADED"))
    answer = runner.answer(
        ids, **settings, on_text=None if as_json else _printer(console, "with ADED" if compare else "")
    )
    if state is not None:
        runner.save(state)
    result: dict[str, Any] = answer.summary()
    comparison = runner.compare(ids, plain, answer, greedy=temperature == 0.0) if plain is not None else None
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


@app.command()
def chat(
    model: Model = None,
    drafter: DrafterName = "adaptive",
    nodes: Nodes = "auto",
    max_new_tokens: NewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    dtype: Dtype = "bfloat16",
    threads: Threads = None,
    state: State = None,
    show_drafts: ShowDrafts = False,
) -> None:
    """Talk to a model; what it learns is kept between turns and, with --state, between runs. End with Ctrl-D."""
    from aded.engines.transformers.runner import Runner

    console = Console(highlight=False)
    runner = Runner.open(
        model,
        drafter=drafter,
        nodes=_nodes(nodes),
        dtype=dtype,
        threads=threads,
        state=state,
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


def _nodes(text: str) -> Any:
    if text == "auto":
        return "auto"
    if text.isdigit():
        return int(text)
    raise AdedError(f'--nodes takes a whole number or "auto", not {text!r}')


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


def main() -> None:
    """Run the command; a foreseen failure is one line on standard error and exit code 2."""
    try:
        app()
    except (AdedError, ModuleNotFoundError) as error:
        print(f"aded: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
