"""What a drafter is, and where drafters are found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Drafts, Limits, Outcomes, StepOutcomes, Trees
from aded.errors import UnknownDrafterError
from aded.representative import Corpus, InterpolationWeights, Representative
from aded.tree import DraftTree, Outcome

Prompt = Sequence[int] | NDArray[np.int32]


class Session(Protocol):
    """One sequence being decoded."""

    def draft(self, max_nodes: int) -> DraftTree:
        """Continuations of the sequence so far, at most `max_nodes` nodes."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """Take in what the target said; the emitted tokens become part of the sequence."""
        ...


class Drafter(Protocol):
    """Learned state shared by the sequences drafted from it.

    `top_k` is how many of the target's likeliest tokens at each scored position it learns from; 0 for none. One that
    has `drafts = False` never drafts anything, and nothing is measured for it.
    """

    @property
    def top_k(self) -> int: ...

    def start(self, prompt: Sequence[int]) -> Session:
        """Begin a sequence."""
        ...


class Slots(Protocol):
    """A drafter's side of the sequences of one speculator, each in a slot."""

    def start(self, slot: int, prompt: Prompt, drafter: Drafter | None = None) -> None:
        """Begin a sequence in a slot, whatever was there.

        Args:
            drafter: the drafter as the sequence's call is to use it, see `Sharing`; None: as it is.
        """
        ...

    def end(self, slot: int) -> None:
        """The sequence in a slot has ended; one that is started there ends it too."""
        ...

    def draft(self, slots: NDArray[np.int64], max_nodes: int, limits: Limits, threshold: float) -> Drafts:
        """A draft for each of these sequences: trees of at most `max_nodes` nodes, or chains that end before their path
        is less likely than `threshold`."""
        ...

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> Callable[[], None]:
        """Take the emitted tokens in. What is returned learns from them; it may run in another thread meanwhile, but
        before the next call of any method."""
        ...


@runtime_checkable
class BatchDrafter(Drafter, Protocol):
    """A drafter that drafts for many sequences in one call."""

    def open(self, count: int) -> Slots:
        """Slots for so many sequences."""
        ...


@runtime_checkable
class Saved(Protocol):
    """A drafter whose learned state can be kept in a file, belongs to a vocabulary, and may read a corpus."""

    @property
    def clock(self) -> int:
        """A number that grows whenever it learns."""
        ...

    def bind(self, vocab_size: int, fingerprint: str) -> None:
        """Say whose tokens it drafts; what it holds of another vocabulary is refused with an AdedError."""
        ...

    def save(self, path: str | Path) -> None: ...

    def load(self, path: str | Path) -> None: ...


@runtime_checkable
class Movable(Drafter, Saved, Protocol):
    """A drafter whose tables can be laid out, read and learned into elsewhere; see `AdaptiveDrafter`.

    Attributes:
        shared: the table that it learns into, and those that it reads besides.
        weights: of the interpolation over a sequence's own table and these.
        tenant_tables: of the tenants that are kept.
    """

    representative: Representative
    corpus: Corpus | None
    shared: list[Representative | Corpus]
    weights: InterpolationWeights
    share: str
    sequence_mb: float
    sequence_successors: int

    @property
    def tenant_mb(self) -> float: ...

    @property
    def most_tenants(self) -> int: ...

    @property
    def tenant_tables(self) -> list[Representative]: ...


@runtime_checkable
class Private(Protocol):
    """A drafter that can be had empty, for a trial that must not be learned from."""

    def scratch(self) -> Drafter:
        """One like this that knows nothing and takes little memory."""
        ...


class _Sessions:
    """Slots of a drafter that knows one sequence at a time."""

    def __init__(self, drafter: Drafter, count: int) -> None:
        self._drafter = drafter
        self._sessions: list[Session | None] = [None] * count

    def start(self, slot: int, prompt: Prompt, drafter: Drafter | None = None) -> None:
        ids = prompt if isinstance(prompt, list) else [int(x) for x in prompt]
        self._sessions[slot] = (drafter or self._drafter).start(ids)

    def end(self, slot: int) -> None:
        self._sessions[slot] = None

    def draft(self, slots: NDArray[np.int64], max_nodes: int, limits: Limits, threshold: float) -> Drafts:
        return Trees(self._session(slot).draft(max_nodes) for slot in slots.tolist())

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> Callable[[], None]:
        if isinstance(outcomes, ChainOutcomes):
            rows = zip(slots.tolist(), outcomes.recent.tolist(), outcomes.emitted.tolist(), strict=True)
            outcomes = Outcomes(Outcome(recent[len(recent) - n :], slot=slot) for slot, recent, n in rows)
        return partial(self._learn, cast(Outcomes, outcomes))

    def _learn(self, outcomes: Outcomes) -> None:
        for outcome in outcomes:
            self._session(outcome.slot).observe(outcome)

    def _session(self, slot: int) -> Session:
        session = self._sessions[slot]
        assert session is not None, "a sequence was not started"
        return session


def open_slots(drafter: Drafter, count: int) -> Slots:
    """The drafter's side of so many sequences, whether it knows one at a time or all together."""
    return drafter.open(count) if isinstance(drafter, BatchDrafter) else _Sessions(drafter, count)


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


def takes(name: str, option: str) -> bool:
    """Whether the drafter of this name can be made with an option; unknown names take none."""
    factory = _REGISTRY.get(name)
    return factory is not None and option in inspect.signature(factory).parameters


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
