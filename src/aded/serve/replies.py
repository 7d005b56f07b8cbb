"""OpenAI's forms of answers, of parts of answers, and of errors."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aded.serve.processors import TokenLogProbs
from aded.serve.tools import ToolCall

Kind = Literal["chat", "text"]
DONE = b"data: [DONE]\n\n"
_OBJECTS = {"chat": ("chat.completion", "chat.completion.chunk"), "text": ("text_completion", "text_completion")}


def event(content: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def failure(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def usage(prompt: int, answer: int, accepted: int, drafted: int) -> dict[str, Any]:
    """What a request took, in tokens.

    Prediction tokens are draft tokens here, as a draft predicts what the model will say.
    """
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


@dataclass
class Replies:
    """Writes one request's answer.

    Attributes:
        kind: of a conversation, or of a text to go on with.
        model: its name.
        shown: the text of a token by itself, for log-probabilities.
    """

    kind: Kind
    model: str
    shown: Callable[[int], str]
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.kind == "chat" else "cmpl-") + secrets.token_hex(12)

    def whole(self, choices: list[dict[str, Any]], spent: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """A reply in one piece."""
        return self._head(0) | {"choices": choices, "usage": spent} | more

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A part of a reply."""
        return self._head(1) | {"choices": choices} | more

    def _head(self, part: int) -> dict[str, Any]:
        return {"id": self.id, "object": _OBJECTS[self.kind][part], "created": self.created, "model": self.model}

    def choice(
        self, number: int, text: str, calls: Sequence[ToolCall], finish: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        """One answer of a whole reply."""
        if self.kind == "text":
            return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}
        message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
        message["refusal"] = None
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
            finish = "tool_calls"
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def delta(
        self,
        number: int,
        text: str,
        finish: str | None,
        logprobs: dict[str, Any] | None,
        *,
        calls: Sequence[ToolCall] = (),
        role: bool = False,
    ) -> dict[str, Any]:
        """A part of one answer."""
        if self.kind == "text":
            return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}
        delta: dict[str, Any] = {"role": "assistant"} if role else {}
        if text or role:
            delta["content"] = text
        if calls:
            delta["tool_calls"] = [{"index": i} | _call(call) for i, call in enumerate(calls)]
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def logprobs(self, tokens: Sequence[int], scored: Sequence[TokenLogProbs], offset: int) -> dict[str, Any] | None:
        """Log-probabilities of some tokens; `offset`: characters of the answer before them."""
        if not scored:
            return None
        names = [self.shown(token) for token in tokens]
        if self.kind == "chat":
            rows = [
                _entry(name, found.logprob)
                | {"top_logprobs": [_entry(self.shown(i), logprob) for i, logprob in found.top]}
                for name, found in zip(names, scored, strict=True)
            ]
            return {"content": rows, "refusal": None}
        starts = [offset]
        for name in names[:-1]:
            starts.append(starts[-1] + len(name))
        return {
            "tokens": names,
            "token_logprobs": [found.logprob for found in scored],
            "top_logprobs": [{self.shown(i): logprob for i, logprob in found.top} for found in scored],
            "text_offset": starts,
        }


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Log-probabilities of all parts of an answer."""
    if not parts:
        return None
    whole: dict[str, Any] = {}
    for part in parts:
        for name, values in part.items():
            whole[name] = values if values is None else whole.get(name, []) + values
    return whole


def _entry(name: str, logprob: float) -> dict[str, Any]:
    return {"token": name, "logprob": logprob, "bytes": list(name.encode("utf-8", "replace"))}


def _call(call: ToolCall) -> dict[str, Any]:
    made = {"name": call.name, "arguments": call.arguments}
    return {"id": "call_" + secrets.token_hex(12), "type": "function", "function": made}
