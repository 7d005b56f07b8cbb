"""What a step costs on this machine: a measured curve, corrected online from the steps that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MAX_DRAFT_TOKENS = 64  # of one sequence in one step: the widest step that is measured, but for the root
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_DRAFT_TOKENS + 1)  # tokens of the steps that are measured

_KEPT = 0.98  # of what is known, after one more step
_PLAIN_STEPS = 32  # that measuring may take of a slow model
_WIDEST = 18  # plain steps that the widest one may be expected to cost


@dataclass(slots=True)
class Pass:
    """One forward pass over a batch of sequences.

    Attributes:
        sequences: how many took part.
        tokens: of their drafts and roots, and what fills up a rectangle.
        emitted: tokens that all emitted.
        prompt_tokens: tokens of prompts that it took in besides.
        seconds: what it took.
    """

    sequences: int
    tokens: int
    emitted: int
    prompt_tokens: int
    seconds: float


class StepCost(Protocol):
    """What a step costs, as a budget asks for it.

    Attributes:
        margin: the share by which a draft must be cheaper than none, because costs are not known better.
        felt: the share of a plain step from which on time for drafting matters.
    """

    margin: float
    felt: float

    def known(self, sequences: int) -> bool:
        """Whether a plain step over so many sequences is known well enough to compare with."""
        ...

    def per_token(
        self, expected: NDArray[np.float64], sequences: int, each: int, again: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        """Seconds an emitted token takes, float64 (n,), in steps of 0, 1, ... more draft tokens.

        Args:
            expected: tokens that each of these steps emits, float64 (n,).
            sequences: in the batch.
            each: tokens in the pass that one more of the draft adds: 1, or one for every sequence.
            again: tokens that each sequence takes in besides because of it, float64 (n,), in this step or the next.
        """
        ...

    def observe(self, step: Pass) -> None:
        """Take in one step."""
        ...


# Far beyond any step, in whatever unit: what is kept in a file and larger was not measured, and sums would overflow.
_MOST_TIME = 1e9
_MOST_TOKENS = 1 << 30


class CostCurve:
    """Seconds one verification step takes against the tokens in it, interpolated between measurements.

    Args:
        sizes: numbers of tokens (the root counts as one), ascending from 1; past the last, the mean slope is continued.
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
        if not all(0 < second < _MOST_TIME for second in seconds) or sizes[-1] > _MOST_TOKENS:
            raise ValueError(f"step times must be positive, and steps be possible, not {seconds} for {sizes}")
        if not 0 <= length <= _MOST_TOKENS or not all(0 <= second < _MOST_TIME for second in per_entry):
            raise ValueError(f"{length} entries and {per_entry} seconds an entry make no cost curve")
        self.sizes, self.seconds = list(sizes), list(seconds)
        if sizes[-1] < MAX_DRAFT_TOKENS + 1:
            slope = 0.0
            if len(sizes) > 1:
                slope = max(seconds[-1] - seconds[0], 0.0) / (sizes[-1] - sizes[0])
            self.sizes.append(MAX_DRAFT_TOKENS + 1)
            self.seconds.append(seconds[-1] + slope * (MAX_DRAFT_TOKENS + 1 - sizes[-1]))

    @classmethod
    def measure(
        cls,
        step: Callable[[int], float],
        *,
        sizes: Sequence[int] = SIZES,
        limit_s: float = 3.0,
        trials: bool = True,
    ) -> CostCurve:
        """Time `step(tokens) -> seconds` in several rounds; the best of each size counts.

        Rounds go through all sizes, so that a machine busy for a moment slows one round and not one size. Powers of two
        come first, and those between where time is left. Sizes expected to cost over 18 plain steps are left out.

        Args:
            limit_s: about how long; a slow model takes as long as 32 plain steps, or of wide steps nothing were known.
            trials: step once in each size beforehand: the first of a shape can compile.
        """
        step(sizes[0])
        plain = step(sizes[0])
        limit_s, spent = max(limit_s, _PLAIN_STEPS * plain if len(sizes) > 1 else 0.0), 0.0
        times = {sizes[0]: [plain]}

        def take(size: int) -> None:
            nonlocal spent
            if size not in times:
                spent += step(size) if trials else 0.0
                times[size] = []
            times[size].append(step(size))
            spent += times[size][-1]

        for size in sizes[1:]:
            if size & (size - 1) and size != sizes[-1]:
                continue  # one between
            before = max(times)
            if spent > limit_s or size / before * times[before][0] > _WIDEST * plain:
                break
            take(size)
        for size in list(times):
            take(size)
        for size in sizes:
            if size < max(times) and size not in times:
                longer = times[min(other for other in times if other > size)][0]
                if spent + 3 * longer <= limit_s:
                    take(size)
                    take(size)
        while spent < limit_s:
            for size in times:
                take(size)
        best = {size: sorted(taken)[:2] for size, taken in sorted(times.items())}
        steady = all(pair[1] < 1.15 * pair[0] for pair in best.values())
        return cls(list(best), [pair[0] for pair in best.values()], steady=steady)

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

    def at(self, tokens: NDArray[Any], *, rows: int = 1, length: int = 0) -> NDArray[np.float64]:
        """Seconds for steps of so many `tokens` a row, in `rows` rows whose caches have `length` entries.

        A batch is charged as one row of as many tokens. A dip is kept: matrix kernels switch at some sizes, and eight
        tokens can cost less than three.
        """
        together = tokens * rows
        slope = (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])
        past = np.maximum(together - self.sizes[-1], 0) * max(slope, 0.0)
        entry, each = self.per_entry
        longer = max(length - self.length, 0) * (rows * entry + together * each)
        seconds: NDArray[np.float64] = np.interp(together, self.sizes, self.seconds) + past + longer
        return seconds

    def __call__(self, tokens: int) -> float:
        """Seconds for a step of one row and `tokens` tokens (1 to MAX_DRAFT_TOKENS + 1)."""
        return float(self.at(np.array([tokens]))[0])


class OnlineFit:
    """A line from predicted to observed step times: recursive least squares that forgets.

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
        fitted: NDArray[np.float64] = np.maximum(slope * predicted + offset * self._unit, 0.1 * predicted)
        return fitted

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


class MeasuredCost:
    """A measured curve, corrected by a line fitted to the steps that follow: a machine that slows down, or a cache that
    grows otherwise than measured, is noticed.

    Args:
        curve: measured beforehand; see an engine's `prepare`.
        length: tells the length of the sequences so far, in tokens.
    """

    margin = 0.0
    felt = 0.0

    def __init__(self, curve: CostCurve, length: Callable[[], int] = lambda: 0) -> None:
        self._curve, self._length, self._fit = curve, length, OnlineFit()

    def known(self, sequences: int) -> bool:
        """Always: it was measured."""
        return True

    def per_token(
        self, expected: NDArray[np.float64], sequences: int, each: int, again: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        tokens = sequences * (1 + again) + each * np.arange(len(expected))
        per_token: NDArray[np.float64] = self._fit(self._at(tokens, sequences)) / expected
        return per_token

    def observe(self, step: Pass) -> None:
        tokens = np.array([step.tokens])
        self._fit.learn(float(self._at(tokens, step.sequences)[0]), step.seconds)

    def _at(self, tokens: NDArray[Any], sequences: int) -> NDArray[np.float64]:
        return self._curve.at(tokens / sequences, rows=sequences, length=self._length())
