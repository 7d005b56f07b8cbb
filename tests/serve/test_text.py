"""An answer's text while it grows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded.serve.text import GrowingText
from aded.serve.tools import HeldCalls, ToolCall, split_calls


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def told(ids: Sequence[int], stop: Sequence[str] = ()) -> tuple[str, list[str]]:
    text, parts = GrowingText(decode, stop), []
    for token in ids:
        parts.append(text.add(token))
        if text.stopped:
            break
    parts.append(text.end())
    return "".join(parts), parts


@given(st.text(max_size=40))
def test_parts_make_the_whole_and_no_character_is_split(whole: str) -> None:
    text, parts = told(whole.encode("utf-8", "ignore"))
    assert text == whole.encode("utf-8", "ignore").decode()
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(parts) or "\N{REPLACEMENT CHARACTER}" in whole


@given(st.text(alphabet="ab", max_size=30), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_it_ends_before_the_first_stop_string(whole: str, stops: list[str]) -> None:
    places = [whole.find(stop) for stop in stops if stop in whole]
    # The text ends at the stop string that is complete first.
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    text, _ = told(whole.encode(), stops)
    if not places:
        assert text == whole
        return
    first = min(end for end, _ in ends)
    assert text == whole[: min(place for end, place in ends if end == first)]


def test_bytes_that_are_no_character_are_told_at_the_end() -> None:
    assert told(b"ab\xe2\x82")[0] == "ab\N{REPLACEMENT CHARACTER}"


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        ("hello", "hello", []),
        (f"Sure.\n{CALL}", "Sure.", [ToolCall("add", '{"a": 1}')]),
        (CALL + CALL, "", [ToolCall("add", '{"a": 1}')] * 2),
        (CALL.removesuffix("</tool_call>"), "", [ToolCall("add", '{"a": 1}')]),
        ("<tool_call>no</tool_call>", "<tool_call>no</tool_call>", []),
        ('<tool_call>{"arguments": {}}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>', []),
    ],
)
def test_calls_in_an_answer(text: str, rest: str, calls: list[ToolCall]) -> None:
    assert split_calls(text) == (rest, calls)
    held = HeldCalls()
    shown = "".join(held.add(letter) for letter in text)
    assert "<tool_call>" not in shown
    more, found = held.end()
    assert ((shown + more).strip(), found) == (rest.strip(), calls)
