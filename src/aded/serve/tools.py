"""Calls of tools inside an answer, as the templates of most open models write them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from aded.serve.text import overlap

# <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Hermes, Qwen, Granite, SmolLM3 and others. A model may end
# without the closing tag, which is a special token in some vocabularies.
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
OPENING = "<tool_call>"


@dataclass(frozen=True)
class ToolCall:
    """A call: the function's name, and its arguments as JSON text."""

    name: str
    arguments: str


def split_calls(text: str) -> tuple[str, list[ToolCall]]:
    """An answer's text without the calls in it, and the calls. What is no proper call stays text."""
    calls: list[ToolCall] = []

    def taken(match: re.Match[str]) -> str:
        try:
            said = json.loads(match[1])
            arguments = said.get("arguments", said.get("parameters", {}))
            name = said["name"]
        except (ValueError, KeyError, AttributeError, RecursionError):
            return match[0]
        if not isinstance(name, str) or not name:
            return match[0]
        calls.append(ToolCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments)))
        return ""

    rest = _CALL.sub(taken, text)
    return (rest.strip() if calls else rest), calls


class HeldCalls:
    """A streamed answer's text, from which calls are held back until they are whole."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        """More of the answer; returns what is certainly no call."""
        self._held += text
        place = self._held.find(OPENING)
        if place < 0:
            place = len(self._held) - overlap(self._held, OPENING)
        told, self._held = self._held[:place], self._held[place:]
        return told

    def end(self) -> tuple[str, list[ToolCall]]:
        """Nothing follows: the rest of the text, and the calls."""
        return split_calls(self._held)
