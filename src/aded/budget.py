"""How many nodes are worth verifying on this machine, from a measured latency curve."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.tree import DraftTree

__all__ = ["MAX_NODES", "ONE_ROW", "SIZES", "Budget", "CostCurve", "FixedBudget", "MeasuredBudget", "steps_without"]

MAX_NODES = 64
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_NODES + 1)
ONE_ROW: Mapping[int, int] = {0: 0}

_PRIOR = 4.0  # tokens of evidence that predictions are right, to begin with
_LEAD = 2  # tokens by which a row must be ahead of the slowest for its own to count half
_KEPT = 0.98  # of what is known, after one more step


def steps_without(idle: int) -> int:
    """Steps to pass without drafting after `idle` drafts in a row did not pay: none after 3, then 1, 3, 7, 15."""
    return min(2 ** (idle - 3), 16) - 1 if idle > 3 else 0


class CostCurve:
    """Seconds one verification step takes against the tokens in it, interpolated between measurements.

    Args:
        sizes: numbers of tokens (the root counts as one), ascending from 1; past the last, its slope is continued.
        seconds: measured step time of each.
        length: entries of the cache in those measurements.
        per_entry: seconds each further entry of the cache adds to a step, and adds for each token in it.
        steady: whether repeated measurements agreed: a machine busy with something else gives no curve to keep.

    Raises:
        ValueError: sizes do not ascend from 1, or seconds are not as many positive numbers.
    """

    def __init__(
        self,
        sizes: list[int],
        seconds: list[float],
        *,
        length: int = 0,
        per_entry: tuple[float, float] = (0.0, 0.0),
        steady: bool = True,
    ) -> None:
        self.length, self.per_entry, self.steady = length, per_entry, steady
        if not sizes or sizes[0] != 1 or sizes != sorted(set(sizes)) or len(seconds) != len(sizes):
            raise ValueError(f"a cost curve has ascending sizes from 1 and a time for each, not {sizes} and {seconds}")
        if not all(0 < second < float("inf") for second in seconds):
            raise ValueError(f"step times must be positive, not {seconds}")
        if length < 0 or not all(0 <= second < float("inf") for second in per_entry):
            raise ValueError(f"{length} entries and {per_entry} seconds an entry make no cost curve")
        self.sizes, self.seconds = list(sizes), list(seconds)
        if sizes[-1] < MAX_NODES + 1:
            slope = 0.0
            if len(sizes) > 1:
                slope = max(seconds[-1] - seconds[-2], 0.0) / (sizes[-1] - sizes[-2])
            self.sizes.append(MAX_NODES + 1)
            self.seconds.append(seconds[-1] + slope * (MAX_NODES + 1 - sizes[-1]))

    @classmethod
    def measure(cls, step: Callable[[int], float], *, sizes: Sequence[int] = SIZES, limit_s: float = 3.0) -> CostCurve:
        """Time `step(tokens) -> seconds` at growing sizes, in several rounds within about `limit_s`; the best counts.

        Rounds go through all sizes, so that a machine busy for a moment slows one round and not one size. Sizes that
        cost over 16 plain steps are not measured.
        """
        step(sizes[0])
        times: list[list[float]] = []
        for size in sizes:
            step(size)  # the first of a shape can compile
            times.append([step(size)])
            if times[-1][0] > 16 * times[0][0] or 2 * sum(map(sum, times)) > limit_s:
                break
        sizes = list(sizes[: len(times)])
        spent = 2 * sum(map(sum, times))
        while spent < limit_s:
            for size, taken in zip(sizes, times, strict=True):
                taken.append(step(size))
                spent += taken[-1]
        best = [sorted(taken)[:2] for taken in times]
        steady = all(len(pair) == 2 and pair[1] < 1.15 * pair[0] for pair in best)
        return cls(sizes, [pair[0] for pair in best], steady=steady)

    @classmethod
    def from_json(cls, cost: dict[str, Any]) -> CostCurve:
        """The curve `to_json` described."""
        a, b = cost.get("per_entry", (0.0, 0.0))
        return cls(
            [int(size) for size in cost["tokens"]],
            [float(second) for second in cost["seconds"]],
            length=int(cost.get("length", 0)),
            per_entry=(float(a), float(b)),
        )

    def to_json(self) -> dict[str, Any]:
        """The measurements, as they stand in files and reports."""
        return {
            "tokens": self.sizes,
            "seconds": self.seconds,
            "length": self.length,
            "per_entry": list(self.per_entry),
        }

    def in_steps(self) -> CostCurve:
        """The curve of an engine that runs every step with the next of these numbers of tokens."""
        sizes, seconds = self.sizes[:1], self.seconds[:1]
        for before, size, second in zip(self.sizes, self.sizes[1:], self.seconds[1:], strict=False):
            new = [before + 1, size] if before + 1 < size else [size]
            sizes, seconds = sizes + new, seconds + [second] * len(new)
        return CostCurve(sizes, seconds, length=self.length, per_entry=self.per_entry, steady=self.steady)

    def at(self, tokens: NDArray[np.int64], *, rows: int = 1, length: int = 0) -> NDArray[np.float64]:
        """Seconds for steps of so many `tokens` a row, in `rows` rows whose caches have `length` entries.

        A batch is charged as one row of as many tokens. A dip is kept: matrix kernels switch at some sizes, and eight
        tokens can cost less than three.
        """
        together = tokens * rows
        slope = (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])
        past = np.maximum(together - self.sizes[-1], 0) * max(slope, 0.0)
        entry, each = self.per_entry
        longer = max(length - self.length, 0) * (rows * entry + together * each)
        return np.interp(together, self.sizes, self.seconds) + past + longer

    def __call__(self, tokens: int) -> float:
        """Seconds for a step of one row and `tokens` tokens (1 to MAX_NODES + 1)."""
        return float(self.at(np.array([tokens]))[0])


class Budget:
    """Chooses how much of the drafts to verify: one draft, or one for each row of a batch.

    Attributes:
        max_nodes: most nodes worth drafting for a row now; 0: draft nothing this time.
        resting: whether drafts gained too little lately to be made at every step, and this is a step without.
    """

    max_nodes: int
    resting: bool = False

    def choose(self, trees: Sequence[DraftTree], progress: Mapping[int, int] = ONE_ROW) -> list[DraftTree]:
        """The part of each tree worth verifying; `progress` is each row's number and tokens emitted."""
        raise NotImplementedError

    def observe(self, tree: DraftTree, accepted: int, row: int = 0) -> None:
        """Told of each verified tree, and of how many of its nodes were kept."""

    def timed(self, trees: Sequence[DraftTree], verifying_s: float, drafting_s: float, learning_s: float) -> None:
        """Told what verifying these trees in one pass took, and drafting them, and learning from them."""


class FixedBudget(Budget):
    """The same number of nodes each step."""

    def __init__(self, nodes: int) -> None:
        self.max_nodes = nodes

    def choose(self, trees: Sequence[DraftTree], progress: Mapping[int, int] = ONE_ROW) -> list[DraftTree]:
        """The trees themselves."""
        return list(trees)


class _Calibration:
    """Accepted over predicted, of late."""

    def __init__(self) -> None:
        self._accepted = self._predicted = _PRIOR

    @property
    def factor(self) -> float:
        return self._accepted / self._predicted

    def learn(self, accepted: int, predicted: float) -> None:
        self._accepted = _KEPT * self._accepted + accepted
        self._predicted = _KEPT * self._predicted + predicted

    def forget(self) -> None:
        """A step that verified nothing: what failed before is believed less, or it would never be tried again."""
        self._accepted += (1 - _KEPT) * (_PRIOR - self._accepted)
        self._predicted += (1 - _KEPT) * (_PRIOR - self._predicted)


class _Mean:
    """What something took of late, in seconds; 0 until it is known."""

    def __init__(self) -> None:
        self.value = 0.0

    def learn(self, seconds: float) -> None:
        self.value += 0.1 * (seconds - self.value) if self.value else seconds


class _Fit:
    """A line from predicted to observed step times, learned step by step: recursive least squares that forgets.

    It begins as certain as after one observation that predictions are right. The offset takes up what every step costs
    besides (drafting apart), the slope a machine that is slower or faster than when it was measured.
    """

    def __init__(self) -> None:
        self._unit = 0.0  # of time: the first prediction
        self._weights = np.array([1.0, 0.0])
        self._spread = np.eye(2)

    def __call__(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Step times as they have been here lately, never less than a tenth of the prediction."""
        slope, offset = self._weights
        return np.maximum(slope * predicted + offset * self._unit, 0.1 * predicted)

    def learn(self, predicted: float, observed: float) -> None:
        """Take in one step. A step over three times as slow as expected was interrupted, and says little."""
        self._unit = self._unit or predicted
        expected = float(self(np.array([predicted]))[0])
        inputs, output = np.array([predicted / self._unit, 1.0]), min(observed, 3 * expected) / self._unit
        spread = self._spread @ inputs
        gain = spread / (_KEPT + inputs @ spread)
        self._weights = self._weights + gain * (output - inputs @ self._weights)
        spread = (self._spread - np.outer(gain, spread)) / _KEPT
        self._spread = spread * min(1.0, 2.0 / np.trace(spread))  # without news, doubt grows only so far


class MeasuredBudget(Budget):
    """The trees that maximise expected tokens a second on a measured cost curve.

    A node is accepted exactly if its whole path is, so a step that verifies the k likeliest nodes emits on average
    1 + a * sum(p_1..p_k) tokens, p the drafter's path probabilities and a their calibration: accepted over predicted,
    learned while decoding, of each row. It takes cost(k + 1) seconds, and drafting and learning take d, so k maximises
    (1 + a * sum p) / (cost(k + 1) + d); k = 0 is a plain step. On a convex curve, as p only falls with k, that is to
    add a node while its gain a * p_k over its marginal cost is above the rate reached so far; every k is looked at,
    since measured curves dip.

    A batch is verified as a rectangle: rows times the nodes of the widest tree, and a row with fewer nodes saves
    nothing. So all rows get the same k, the one that maximises the sum of their expected tokens over the cost of the
    rectangle, each its own k likeliest nodes. A batch is done when its slowest row is: a token of a row that is ahead
    counts half as much for every two tokens of its lead, or a row that copies would slow the others down to no use.

    Costs are the curve's, corrected by a line fitted to the steps that follow, so that a machine that slows down or a
    cache that grows is noticed. A step's nodes must pay for verifying them; the drafting is done by then, and enters
    another comparison: where for some steps the rate with nodes was not above 1 / (cost(1) + learning), which is the
    rate without drafts, drafts are made at every second step only, then at every fourth, and so on to every sixteenth,
    until they pay again.

    Weighing a node against the long-run rate instead (Dinkelbach's rule for a ratio of sums) would be optimal if
    probabilities were exact; replayed on recorded traces it was no better (`aded trace regret` compares with fixed
    budgets).

    Args:
        curve: asked for when there first is a draft: a drafter without any costs no measurement.
        length: tells the length of the sequences so far, in tokens.
    """

    def __init__(self, curve: Callable[[], CostCurve], length: Callable[[], int] = lambda: 0) -> None:
        self.max_nodes = MAX_NODES
        self._make_curve, self._length = curve, length
        self._calibrations: defaultdict[int, _Calibration] = defaultdict(_Calibration)
        self._fit = _Fit()
        self._drafting, self._learning = _Mean(), _Mean()
        self._reach = MAX_NODES  # nodes worth drafting: as many as pay now, and as many again
        self._drafted = False  # whether the last step could have had a draft
        self._idle = self._asleep = 0  # steps in a row in which no node paid; steps yet to pass without a draft

    @cached_property
    def _curve(self) -> CostCurve:
        return self._make_curve()

    def choose(self, trees: Sequence[DraftTree], progress: Mapping[int, int] = ONE_ROW) -> list[DraftTree]:
        """The part of each tree worth verifying."""
        self._drafted = not self._asleep
        if self._asleep:
            self._forget(progress)
            self._asleep -= 1
            self._rest()
            return list(trees)
        widest = max(map(len, trees))
        if not widest:
            return list(trees)
        tokens, slowest = np.zeros(widest + 1), min(progress.values())
        for tree, (row, emitted) in zip(trees, progress.items(), strict=True):
            scores = np.zeros(widest)
            scores[: len(tree)] = np.sort(np.exp(tree.log_probs))[::-1]
            gains = self._calibrations[row].factor * np.concatenate([[0.0], np.cumsum(scores)])
            tokens += 0.5 ** ((emitted - slowest) / _LEAD) * (1 + gains)
        costs = self._fit(self._curve.at(np.arange(1, widest + 2), rows=len(trees), length=self._length()))
        other = self._drafting.value + self._learning.value
        rates = tokens / (costs + other)
        best = int(np.argmax(rates))
        if not best:
            self._forget(progress)
        self._plan(best, bool(rates[best] > tokens[0] / (costs[0] + self._learning.value)))
        return [tree.limit(nodes=best) for tree in trees]

    def _plan(self, best: int, pays: bool) -> None:
        """Decide how much to draft in the steps to come."""
        self._reach = min(max(2 * best, 3 * self._reach // 4, 8), MAX_NODES)
        self._idle = 0 if pays else self._idle + 1
        self._asleep = steps_without(self._idle)
        self._rest()

    def _rest(self) -> None:
        self.resting = self._asleep > 0
        self.max_nodes = 0 if self.resting else self._reach

    def observe(self, tree: DraftTree, accepted: int, row: int = 0) -> None:
        """Correct a row's calibration by one verified tree of which `accepted` nodes were kept."""
        if len(tree):
            self._calibrations[row].learn(accepted, float(np.exp(tree.log_probs).sum()))

    def _forget(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._calibrations[row].forget()

    def timed(self, trees: Sequence[DraftTree], verifying_s: float, drafting_s: float, learning_s: float) -> None:
        """Correct the curve by one step."""
        if "_curve" not in self.__dict__:  # nothing was drafted yet, and so nothing measured
            return
        tokens = np.array([1 + max(map(len, trees))])
        predicted = float(self._curve.at(tokens, rows=len(trees), length=self._length())[0])
        self._fit.learn(predicted, verifying_s)
        # The first times can include compiling.
        self._learning.learn(min(learning_s, predicted))
        if self._drafted:  # a step without says nothing about what a draft costs
            self._drafting.learn(min(drafting_s, predicted))
