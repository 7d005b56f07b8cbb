"""`aded chat`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli import options
from aded.cli.answer import printer, show_summary
from aded.engines.base.runner import Answer, Runner
from aded.errors import AdedError
from aded.files import check_writable, replace

_HELP = """\
/reset         begin anew; what was learned stays
/system TEXT   how the model is to behave, from now on; without a text, as it was made
/save FILE     the conversation, as JSON
/stats         what all answers so far took
/exit          leave
Alt-Enter begins a new line; what is pasted is one message. Ctrl-C stops an answer and keeps
what was said; Ctrl-D leaves."""


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
    device: options.Device = "auto",
    state: options.State = None,
    corpus: options.CorpusFile = None,
    share: options.Share = None,
    system: Annotated[str | None, typer.Option(help="How the model is to behave.")] = None,
    history: Annotated[
        Path | None, typer.Option(help="Keep what was typed in this file, for the arrow keys. Default: nowhere.")
    ] = None,
    show_drafts: options.ShowDrafts = False,
    quiet: options.Quiet = False,
) -> None:
    """Talk to a model; what it learns is kept between turns and, with --state, between runs. End with Ctrl-D."""
    console = Console(highlight=False)
    if history is not None:
        check_writable(history, "the history")
    given = (engine, model, drafter, max_draft_tokens, compile, dtype, threads, device, state, corpus, share)
    runner = options.open_runner(*given, Console(highlight=False, quiet=quiet))
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    talk = _Talk(runner, settings, seed, state, system)
    read = _reader(console, history)
    if sys.stdin.isatty() and not quiet:
        console.print("[dim]/help says what can be typed besides[/dim]")
    while True:
        try:
            said = read().strip()
        except EOFError:
            console.print()
            return
        except UnicodeDecodeError as error:
            raise AdedError(f"what was said is not valid UTF-8 ({error}); convert it") from error
        if said == "/exit":
            return
        if said.startswith("/"):
            _obey(talk, said, console)
        elif said:
            answer = talk.say(options.text_of(said, "what was said"), printer(console, ""))
            if answer is None:
                console.print("[dim]\nstopped[/dim]")
                continue
            if show_drafts:
                console.print(answer.coloured())
            if not quiet:
                show_summary(console, answer.summary())


@dataclass
class _Talk:
    """A conversation, and what its answers took."""

    runner: Runner
    settings: dict[str, Any]
    seed: int
    state: Path | None
    system: str | None
    messages: list[dict[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    turns: int = 0

    @property
    def whole(self) -> list[dict[str, str]]:
        """With what the model is told beforehand."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.messages

    def say(self, text: str, on_text: Callable[[str], None]) -> Answer | None:
        """The model's answer; None if it was stopped, and then what was said of it is part of the conversation."""
        self.messages.append({"role": "user", "content": text})
        self.turns += 1
        heard: list[str] = []

        def hear(more: str) -> None:
            heard.append(more)
            on_text(more)

        try:
            ids = self.runner.loaded.prompt_ids(self.whole)
            with self.runner.saving(self.state):
                answer = self.runner.answer(ids, **self.settings, seed=self.seed + self.turns, on_text=hear)
        except KeyboardInterrupt:
            if begun := "".join(heard):
                self.messages.append({"role": "assistant", "content": begun})
            else:
                self.messages.pop()
            return None
        except AdedError:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": answer.text})
        self.answers.append(answer)
        return answer


def _obey(talk: _Talk, said: str, console: Console) -> None:
    """Do what a line that begins with a slash asks for."""
    command, _, rest = said.partition(" ")
    rest = rest.strip()
    if command == "/reset":
        talk.messages = []
        console.print("[dim]a new conversation[/dim]")
    elif command == "/system":
        talk.system = rest or None
        console.print("[dim]noted[/dim]" if rest else "[dim]as it was made[/dim]")
    elif command == "/save":
        _save(talk, rest, console)
    elif command == "/stats":
        _show_stats(talk, console)
    else:
        console.print(_HELP if command == "/help" else f"there is no {command}:\n{_HELP}", markup=False, style="dim")


def _save(talk: _Talk, name: str, console: Console) -> None:
    if not name:
        console.print("[dim]say where: /save FILE[/dim]")
        return
    try:
        check_writable(Path(name), "the conversation")
        replace(Path(name), json.dumps({"messages": talk.whole}, indent=1, ensure_ascii=False).encode(), private=True)
    except (AdedError, OSError) as error:  # the conversation goes on
        console.print(str(error), markup=False, style="red")
        return
    console.print(f"{len(talk.whole)} messages, in {name}", markup=False, style="dim")


def _show_stats(talk: _Talk, console: Console) -> None:
    stats = [answer.stats for answer in talk.answers]
    tokens, seconds = sum(x.tokens for x in talk.answers), sum(x.seconds for x in talk.answers)
    if not tokens:
        console.print("[dim]nothing was answered yet[/dim]")
        return
    steps, drafted, accepted = (sum(getattr(x, name) for x in stats) for name in ("steps", "drafted", "accepted"))
    parts = (
        f"{len(stats)} answers",
        f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s",
        f"{tokens / max(steps, 1):.2f} tokens a step",
        f"{accepted} of {drafted} draft tokens accepted",
    )
    console.print(" · ".join(parts), style="dim")


def _reader(console: Console, history: Path | None) -> Callable[[], str]:
    """What reads a message: an editor in a terminal, a line elsewhere."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return lambda: console.input("[bold]> [/bold]")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: Any) -> None:
        # Meant for an answer that has just ended, perhaps: the conversation goes on.
        event.current_buffer.reset()

    kept = InMemoryHistory() if history is None else FileHistory(str(history))
    # Several lines, so that a paste is one message; Enter sends it all the same.
    session: PromptSession[str] = PromptSession(history=kept, key_bindings=keys, multiline=True)
    return lambda: session.prompt("> ", prompt_continuation="  ")
