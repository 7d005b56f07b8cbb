"""`aded chat` as it is typed, in a terminal and through a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from typer.testing import CliRunner

from aded.cli import app
from aded.cli import chat as chatting

pytest.importorskip("gguf", reason="the extra cli brings it")

from support.gguf_files import write_tiny_gguf

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("chat")
    write_tiny_gguf(folder / "tiny.gguf", template=TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADED_CACHE", str(folder / "cache"))
        yield ["--model", str(folder / "tiny.gguf"), "--max-new-tokens", "6", "--max-draft-tokens", "2"]


def talked(options: list[str], *lines: str) -> str:
    shown = CliRunner().invoke(app, ["chat", *options], input="\n".join([*lines, ""]), env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_a_conversation_can_be_led_and_saved(options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    said = [
        "/stats",
        "the other",
        "/stats",
        "/system be short",
        "another",
        f"/save {file}",
        "/save",
        "/nothing",
        "/help",
    ]
    shown = talked(options, *said)
    for part in ("nothing was answered yet", "1 answers", "draft tokens accepted", "say where", "there is no /nothing"):
        assert part in shown
    messages = json.loads(file.read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [messages[n]["content"] for n in (0, 1, 3)] == ["be short", "the other", "another"]
    assert file.stat().st_mode & 0o077 == 0


def test_a_new_conversation_knows_nothing_of_the_old(options: list[str], tmp_path: Path) -> None:
    talked(options, "the other", "/reset", "another", f"/save {tmp_path / 'a'}", "/exit", "never said")
    talked(options, "another", f"/save {tmp_path / 'b'}")
    first, second = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert first == second


def test_what_cannot_be_saved_is_said_and_the_conversation_goes_on(options: list[str]) -> None:
    shown = talked(options, "/save /proc/no/where", "the other", "/stats")
    assert "cannot write the conversation" in shown
    assert "1 answers" in shown


def test_quiet_says_answers_alone(options: list[str]) -> None:
    assert "tokens/s" in talked(options, "the other")
    assert "tokens/s" not in talked([*options, "--quiet"], "the other")


def test_an_answer_that_is_stopped_stays_as_far_as_it_went() -> None:
    class Stopped:
        loaded = drafter = None

        def saving(self, state: Path | None) -> Iterator[None]:
            from contextlib import nullcontext

            return nullcontext()

        def answer(self, ids: object, *, on_text: object, **settings: object) -> None:
            for part in self.parts:
                on_text(part)
            raise KeyboardInterrupt

    runner = Stopped()
    runner.loaded = type("Loaded", (), {"prompt_ids": staticmethod(lambda messages: messages)})
    talk = chatting._Talk(runner, {}, 0, None, None)
    runner.parts = ["a", "b"]
    assert talk.say("first", lambda text: None) is None
    assert talk.messages == [{"role": "user", "content": "first"}, {"role": "assistant", "content": "ab"}]
    runner.parts = []
    assert talk.say("second", lambda text: None) is None
    assert len(talk.messages) == 2


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipeInput]:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def test_what_is_pasted_is_one_message_and_lines_are_edited(typed: PipeInput, tmp_path: Path) -> None:
    read = chatting._reader(Console(), tmp_path / "history")
    typed.send_text("\x1b[200~one\ntwo\x1b[201~\r")
    assert read() == "one\ntwo"
    typed.send_text("first\x1b\rsecond\r")  # Alt-Enter
    assert read() == "first\nsecond"
    typed.send_text("wrong\x03right\r")  # Ctrl-C clears the line
    assert read() == "right"
    typed.send_text("abd\x1b[Dc\r")  # left
    assert read() == "abcd"
    typed.send_text("\x1b[A\r")  # up: from the history
    assert read() == "abcd"
    typed.send_text("\x04")
    with pytest.raises(EOFError):
        read()
    again = chatting._reader(Console(), tmp_path / "history")
    typed.send_text("\x1b[A\r")
    assert again() == "abcd"
