"""Predicted outputs: what the caller expects an answer to look like, as in editing a file, drafts it.

Where the answer follows the prediction, long chains of it are drafted; where they part, the place at which they meet
again is looked for, and meanwhile another drafter drafts. The idea is input-guided Aggressive Decoding (Sun et al.,
ACL 2021, arXiv 2106.04970; Ge et al., 2022, arXiv 2205.10350), with a drafter beside it and as long a draft as pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Drafts, Limits, Outcomes, StepOutcomes, Trees
from aded.drafters.base import Drafter, Prompt, open_slots
from aded.errors import SettingsError
from aded.tree import DraftTree, Outcome

__all__ = ["Alignment", "PredictedDrafter", "Prediction", "predicting", "predicted"]

# Texts or ids of each row; one text, or the ids of one, where there is one row.
Prediction = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]

# Tokens that have to agree before a place counts as the one where the answer goes on: near the last place two do, for
# the file goes on there; elsewhere there are many more places.
_NEAR, _LEAST_NEAR, _LEAST_ELSEWHERE = 64, 2, 4
_LONGEST = 16  # tokens that are compared, of places that could be meant
_LEAST_TRUST = 0.6  # share of such tokens that were right, below which the other drafter knows better

# How likely the next token of the prediction is the answer's, by how many agreed before it: classes of these, the
# probabilities at first, and how many tokens it takes to move one half way to what came of them.
_CLASSES = np.array([0, 2, 4, 16, 64])
_FIRST = np.array([0.85, 0.85, 0.93, 0.98, 0.99])
_SURE = np.array([2.0, 4.0, 8.0, 16.0, 16.0])


class Alignment:
    """Where an answer is in its prediction.

    Args:
        prediction: ids.

    Attributes:
        place: index of the token that is expected next; None while answer and prediction go different ways.
    """

    def __init__(self, prediction: Sequence[int] | NDArray[np.int32]) -> None:
        self._ids = np.asarray(prediction, np.int32)
        self.place: int | None = 0 if len(self._ids) else None
        self._agreed = 0  # tokens in a row
        self._last = 0  # the latest place
        self._said: list[int] = []
        self._right, self._all = _FIRST * _SURE, _SURE.copy()
        self._pairs: dict[tuple[int, int], list[int]] = {}  # ends of each two tokens
        for end, pair in enumerate(zip(self._ids[:-1].tolist(), self._ids[1:].tolist(), strict=True), 2):
            self._pairs.setdefault(pair, []).append(end)

    def follow(self, tokens: Sequence[int]) -> None:
        """Tokens that the answer goes on with."""
        for token in tokens:
            self._said.append(token)
            if self.place is not None:
                self._step(token)
            else:
                self._meet()

    def _step(self, token: int) -> None:
        place = self.place
        assert place is not None
        right = place < len(self._ids) and int(self._ids[place]) == token
        kind = int(np.searchsorted(_CLASSES, self._agreed, side="right")) - 1
        self._all[kind] += 1
        self._right[kind] += right
        self._agreed = self._agreed + 1 if right else 0
        self._last = place + 1
        self.place = place + 1 if right and place + 1 < len(self._ids) else None

    def _meet(self) -> None:
        """Look for the place at which the answer goes on in the prediction."""
        if len(self._said) < 2:
            return
        best: tuple[int, int, int] | None = None
        for end in self._pairs.get((self._said[-2], self._said[-1]), ()):
            length, distance = self._agreement(end), abs(end - self._last)
            if length >= (_LEAST_NEAR if distance <= _NEAR else _LEAST_ELSEWHERE):
                best = max(best or (0, 0, 0), (length, -distance, end))
        if best is not None and best[2] < len(self._ids):
            self._agreed, self.place = best[0], best[2]

    def _agreement(self, end: int) -> int:
        """Tokens before a place that are the answer's last."""
        length = 2
        most = min(_LONGEST, end, len(self._said))
        while length < most and self._said[-length - 1] == int(self._ids[end - length - 1]):
            length += 1
        return length

    def draft(self, most: int) -> DraftTree:
        """The prediction from here on; empty where there is no here, or it was wrong at such places too often."""
        if self.place is None or most < 1:
            return DraftTree.empty()
        tokens = self._ids[self.place : self.place + most]
        kinds = np.searchsorted(_CLASSES, self._agreed + np.arange(len(tokens)), side="right") - 1
        shares = (self._right / self._all)[kinds]
        if shares[0] < _LEAST_TRUST:
            return DraftTree.empty()
        return DraftTree.chain(tokens.tolist(), np.cumsum(np.log(shares)).tolist())


class PredictedDrafter:
    """Another drafter, and predictions of what is answered in one call.

    Args:
        drafter: drafts where an answer goes a way of its own, and learns.
        predictions: ids of each row's; an empty one says nothing.
    """

    def __init__(self, drafter: Drafter, predictions: Sequence[Sequence[int] | NDArray[np.int32]]) -> None:
        self.within = drafter
        self.top_k = drafter.top_k
        self._predictions = predictions

    def start(self, prompt: Sequence[int]) -> _Session:
        """Begin a sequence that is predicted by the first prediction."""
        slots = self.open(1)
        slots.start(0, prompt)
        return _Session(slots)

    def open(self, count: int) -> _PredictedSlots:
        """Slots of all rows."""
        return _PredictedSlots(self.within, count, self._predictions)


class _PredictedSlots:
    def __init__(self, drafter: Drafter, count: int, predictions: Sequence[Sequence[int] | NDArray[np.int32]]) -> None:
        self._within = open_slots(drafter, count)
        self._predictions = predictions
        self._at = [Alignment([])] * count

    def start(self, slot: int, prompt: Prompt, drafter: Drafter | None = None) -> None:
        self._within.start(slot, prompt, drafter)
        self._at[slot] = Alignment(self._predictions[slot])

    def end(self, slot: int) -> None:
        self._within.end(slot)

    def draft(self, slots: NDArray[np.int64], max_nodes: int, limits: Limits, threshold: float) -> Drafts:
        drafts = {slot: self._at[slot].draft(max_nodes) for slot in slots.tolist()}
        others = [i for i, tree in enumerate(drafts.values()) if not len(tree)]
        if len(others) == len(slots):
            return self._within.draft(slots, max_nodes, limits, threshold)
        if others:
            left = Limits([limits.depth[i] for i in others], limits.nodes, limits.paths, limits.trees)
            made = self._within.draft(slots[others], max_nodes, left, threshold)
            drafts |= dict(zip(slots[others].tolist(), made, strict=True))
        return Trees(drafts.values())

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> Callable[[], None]:
        if isinstance(outcomes, ChainOutcomes):
            for slot, recent, n in zip(slots.tolist(), outcomes.recent, outcomes.emitted.tolist(), strict=True):
                self._at[slot].follow(recent[len(recent) - n :].tolist())
        elif isinstance(outcomes, Outcomes):
            for outcome in outcomes:
                self._at[outcome.slot].follow(outcome.emitted)
        return self._within.observe(slots, outcomes)


class _Session:
    """One sequence by itself."""

    def __init__(self, slots: _PredictedSlots) -> None:
        self._slots, self._one = slots, np.zeros(1, np.int64)

    def draft(self, max_nodes: int) -> DraftTree:
        return next(iter(self._slots.draft(self._one, max_nodes, Limits([max_nodes]), 0.0)))

    def observe(self, outcome: Outcome) -> None:
        self._slots.observe(self._one, Outcomes([replace(outcome, slot=0)]))()


_SAID: ContextVar[Prediction | None] = ContextVar("aded_prediction", default=None)


@contextmanager
def predicting(prediction: Prediction) -> Iterator[None]:
    """Say for all calls within it what their answers are expected to look like.

    For calls that take no such option: those of pipelines, of chains, of `llama_cpp.Llama`. It holds in this thread, or
    this task of asyncio; an option of a call goes before it.

    Args:
        prediction: a text, or its token ids; for a batch, one for each row.
    """
    before = _SAID.set(prediction)
    try:
        yield
    finally:
        _SAID.reset(before)


def predicted(
    drafter: Drafter, prediction: Prediction | None, rows: int, encode: Callable[[str], Sequence[int]]
) -> Drafter:
    """The drafter as a call is to use it whose answers are predicted, by an option or by `predicting`.

    Args:
        rows: sequences of the call.
        encode: the token ids of a text.

    Raises:
        SettingsError: it is no prediction, or not one for each row.
    """
    prediction = _SAID.get() if prediction is None else prediction
    if prediction is None:
        return drafter
    each: list[Any] = [prediction] if isinstance(prediction, str) else list(prediction)
    if not each:  # that of one row, empty
        return drafter
    if each and isinstance(each[0], int | np.integer):
        each = [each]
    if len(each) != rows:
        raise SettingsError(f"prediction: one is needed for each of {rows} rows, not {len(each)}")
    return PredictedDrafter(drafter, [_ids(one, encode) for one in each])


def _ids(one: Any, encode: Callable[[str], Sequence[int]]) -> NDArray[np.int32]:
    one = encode(one) if isinstance(one, str) else one
    try:
        ids = np.asarray(one)
    except (TypeError, ValueError):
        ids = np.zeros(1)
    if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() > 2**31 - 1):
        raise SettingsError("prediction: give a text, or a list of token ids, for each row")
    return ids.astype(np.int32)
