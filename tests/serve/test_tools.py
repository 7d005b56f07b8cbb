"""Calls of tools: told to the model by its template, and found in what it says."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest

from aded.engines.base.completion import Sampling, Steps
from support.servers import served

openai = pytest.importorskip("openai", reason="the extra dev brings it")

TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
ASKED = [{"role": "user", "content": "1 and 2?"}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


class Scripted:
    """Says one text, whatever it is asked, and keeps what that was."""

    at_once, context = True, 2000

    def __init__(self, loaded: Any, text: str) -> None:
        self._loaded, self._text = loaded, text
        self.prompts: list[str] = []

    def grammar_tokenizer(self) -> Any:
        raise AssertionError

    def aside(self) -> Any:
        return nullcontext()

    def complete(self, prompt: list[int], sampling: Sampling, *, steps: Steps, **settings: Any) -> None:
        self.prompts.append(self._loaded.decode(prompt))
        for token in [*self._loaded.encode(self._text), *self._loaded.ends]:
            steps.plain(token)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "rest"), [(CALL, None), (f"Let me see.\n{CALL}{CALL}", "Let me see.")])
def test_calls_are_told_as_calls(tiny: Any, stream: bool, text: str, rest: str | None) -> None:
    completer = Scripted(tiny[0], text)
    with served(tiny[0], completer) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client:
        asked = {"model": tiny[0].name, "messages": ASKED, "tools": [TOOL]}
        if stream:
            parts = [part.choices[0] for part in client.chat.completions.create(**asked, stream=True)]
            said = "".join(part.delta.content or "" for part in parts)
            calls = [call for part in parts for call in part.delta.tool_calls or []]
            finish = parts[-1].finish_reason
        else:
            choice = client.chat.completions.create(**asked).choices[0]
            said, calls, finish = choice.message.content, choice.message.tool_calls, choice.finish_reason
    assert finish == "tool_calls"
    assert (said or "").strip() == (rest or "")
    assert len(calls) == text.count("<tool_call>")
    assert {call.function.name for call in calls} == {"add"}
    assert all(json.loads(call.function.arguments) == {"a": 1, "b": 2} for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    assert completer.prompts[0].startswith("[add]")


def test_without_tools_such_text_is_text(tiny: Any) -> None:
    completer = Scripted(tiny[0], CALL)
    with served(tiny[0], completer) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client:
        for more in ({}, {"tools": [TOOL], "tool_choice": "none"}):
            choice = client.chat.completions.create(model=tiny[0].name, messages=ASKED, **more).choices[0]
            assert choice.message.content == CALL
            assert choice.finish_reason == "stop"
    assert not any(prompt.startswith("[add]") for prompt in completer.prompts)


def test_a_template_without_a_place_for_tools_refuses_them(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny[0]), "takes_tools", False)
    completer = Scripted(tiny[0], CALL)
    with served(tiny[0], completer) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0)
        with client, pytest.raises(openai.BadRequestError, match="no place for them"):
            client.chat.completions.create(model=tiny[0].name, messages=ASKED, tools=[TOOL])


def test_earlier_calls_are_part_of_the_conversation(tiny: Any) -> None:
    completer = Scripted(tiny[0], "3")
    function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]},
    ]
    with served(tiny[0], completer) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client:
        assert client.chat.completions.create(model=tiny[0].name, messages=messages).choices[0].message.content == "3"
