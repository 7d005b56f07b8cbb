"""What a drafter is, and where drafters are found by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aded.errors import UnknownDrafterError
from aded.tree import DraftTree

__all__ = ["Drafter", "Observation", "Session", "TokenBuffer", "create", "names", "register"]


@dataclass(frozen=True, eq=False)
class Observation:
    """What one verification step showed.

    Attributes:
        emitted: tokens committed by the step, in order; the last one is the target's own next token.
        tree: what was verified; empty after a plain step.
        top_ids: int32, shape (n + 1, k): the target's likeliest tokens after the root (row 0) and after each node
            (row i + 1). A row that begins with -1 was not scored; None where the engine knows emitted tokens only.
        top_probs: float32, same shape: their probabilities.
    """

    emitted: Sequence[int]
    tree: DraftTree = field(default_factory=DraftTree.empty)
    top_ids: NDArray[np.int32] | None = None
    top_probs: NDArray[np.float32] | None = None


class Session(Protocol):
    """One sequence being decoded."""

    def draft(self, max_nodes: int) -> DraftTree:
        """Continuations of the sequence so far, at most `max_nodes` nodes."""
        ...

    def observe(self, observation: Observation) -> None:
        """Take in what the target said; the emitted tokens become part of the sequence."""
        ...


class Drafter(Protocol):
    """Learned state shared by the sequences drafted from it.

    `top_k` is how many of the target's likeliest tokens at each scored position it learns from; 0 for none.
    """

    @property
    def top_k(self) -> int: ...

    def start(self, prompt: Sequence[int]) -> Session:
        """Begin a sequence."""
        ...


_REGISTRY: dict[str, Callable[..., Drafter]] = {}


def register(name: str) -> Callable[[Callable[..., Drafter]], Callable[..., Drafter]]:
    """Make a drafter's factory known under `name` (a decorator)."""

    def add(factory: Callable[..., Drafter]) -> Callable[..., Drafter]:
        _REGISTRY[name] = factory
        return factory

    return add


def names() -> list[str]:
    """Every registered drafter."""
    return sorted(_REGISTRY)


def create(name: str, **options: Any) -> Drafter:
    """A new drafter by name.

    Raises:
        UnknownDrafterError: nothing is registered under `name`.
    """
    try:
        factory = _REGISTRY[name]
    except KeyError:
        raise UnknownDrafterError(f"there is no drafter {name!r}; choose one of {', '.join(names())}") from None
    return factory(**options)


class TokenBuffer:
    """A growing int32 sequence with amortised appends."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._data = np.empty(max(256, 2 * len(tokens)), np.int32)
        self._data[: len(tokens)] = tokens
        self._size = len(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        need = self._size + len(tokens)
        if need > len(self._data):
            self._data = np.concatenate([self._data[: self._size], np.empty(need, np.int32)])
        self._data[self._size : need] = tokens
        self._size = need

    def __len__(self) -> int:
        return self._size

    def view(self, last: int | None = None) -> NDArray[np.int32]:
        """The tokens, or only the last so many; shares memory, do not keep or change."""
        return self._data[0 if last is None else max(self._size - last, 0) : self._size]
