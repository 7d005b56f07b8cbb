"""Engines without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aded.batch import Limits


class Saying:
    """Says what it was given, whatever is drafted; `asked` notes how many likeliest tokens each pass was asked for."""

    def __init__(self, output: Sequence[int]) -> None:
        self.output, self.said, self.asked = [int(token) for token in output], 0, list[int]()

    def prefill(self, top_k: int) -> list[Any]:
        self.asked.append(top_k)
        return [self]

    def limits(self, slots: Sequence[int]) -> Limits:
        return Limits([len(self.output) - self.said - 1])

    def verify(self, slots: Sequence[int], trees: Any, top_k: int) -> list[Any]:
        self.asked.append(top_k)
        return [self]

    def append(self, slot: int, token: int) -> bool:
        self.said += 1
        return self.said == len(self.output)

    def commit(self, outcomes: Any) -> None: ...

    def top_k(self) -> None: ...

    def choose(self, row: int) -> int:
        return self.output[self.said]
