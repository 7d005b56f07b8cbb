"""How many nodes are worth verifying on this machine, from a measured latency curve."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.tree import DraftTree

__all__ = ["MAX_NODES", "Budget", "CostCurve", "FixedBudget", "MeasuredBudget"]

MAX_NODES = 64


class CostCurve:
    """Seconds one verification step takes against the tokens in it, interpolated between measurements.

    Args:
        sizes: numbers of tokens (the root counts as one), ascending from 1; past the last, its slope is continued.
        seconds: measured step time of each.
        steady: whether repeated measurements agreed: a machine busy with something else gives no curve to keep.

    Raises:
        ValueError: sizes do not ascend from 1, or seconds are not as many positive numbers.
    """

    def __init__(self, sizes: list[int], seconds: list[float], *, steady: bool = True) -> None:
        self.steady = steady
        if not sizes or sizes[0] != 1 or sizes != sorted(set(sizes)) or len(seconds) != len(sizes):
            raise ValueError(f"a cost curve has ascending sizes from 1 and a time for each, not {sizes} and {seconds}")
        if not all(0 < second < float("inf") for second in seconds):
            raise ValueError(f"step times must be positive, not {seconds}")
        self.sizes, self.seconds = list(sizes), list(seconds)
        if sizes[-1] < MAX_NODES + 1:
            slope = 0.0
            if len(sizes) > 1:
                slope = max(seconds[-1] - seconds[-2], 0.0) / (sizes[-1] - sizes[-2])
            self.sizes.append(MAX_NODES + 1)
            self.seconds.append(seconds[-1] + slope * (MAX_NODES + 1 - sizes[-1]))
        # A dip is kept: matrix kernels switch at some sizes, and eight tokens can cost less than three.
        self._curve = np.interp(np.arange(1, MAX_NODES + 2), self.sizes, self.seconds)

    @classmethod
    def measure(cls, step: Callable[[int], float], *, limit_s: float = 3.0) -> CostCurve:
        """Time `step(tokens) -> seconds` at growing sizes, in several rounds within about `limit_s`; the best counts.

        Rounds go through all sizes, so that a machine busy for a moment slows one round and not one size. Sizes that
        cost over 16 plain steps are not measured.
        """
        sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_NODES + 1]
        step(1)
        times: list[list[float]] = []
        for size in sizes:
            step(size)  # the first of a shape can compile
            times.append([step(size)])
            if times[-1][0] > 16 * times[0][0] or 2 * sum(map(sum, times)) > limit_s:
                break
        sizes = sizes[: len(times)]
        spent = 2 * sum(map(sum, times))
        while spent < limit_s:
            for size, taken in zip(sizes, times, strict=True):
                taken.append(step(size))
                spent += taken[-1]
        best = [sorted(taken)[:2] for taken in times]
        steady = all(len(pair) == 2 and pair[1] < 1.15 * pair[0] for pair in best)
        return cls(sizes, [pair[0] for pair in best], steady=steady)

    @classmethod
    def from_json(cls, cost: dict[str, list[Any]]) -> CostCurve:
        """The curve `to_json` described."""
        return cls([int(size) for size in cost["tokens"]], [float(second) for second in cost["seconds"]])

    def to_json(self) -> dict[str, list[Any]]:
        """The measurements, as they stand in files and reports."""
        return {"tokens": self.sizes, "seconds": self.seconds}

    def __call__(self, tokens: int) -> float:
        """Seconds for a step of `tokens` tokens (1 to MAX_NODES + 1)."""
        return float(self._curve[tokens - 1])


class Budget:
    """Chooses how much of a draft to verify."""

    max_nodes: int

    def choose(self, tree: DraftTree) -> DraftTree:
        """The part of `tree` worth verifying."""
        raise NotImplementedError

    def observe(self, tree: DraftTree, accepted: int) -> None:
        """Told of each verified tree, and of how many of its nodes were kept."""


class FixedBudget(Budget):
    """The same number of nodes each step."""

    def __init__(self, nodes: int) -> None:
        self.max_nodes = nodes

    def choose(self, tree: DraftTree) -> DraftTree:
        """The tree itself."""
        return tree


class MeasuredBudget(Budget):
    """The tree that maximises expected tokens a second on a measured cost curve.

    A node is accepted exactly if its whole path is, so a step that verifies the k likeliest nodes emits on average
    1 + a * sum(p_1..p_k) tokens, p the drafter's path probabilities and a their calibration: accepted over predicted,
    learned while decoding. It takes cost(k + 1) seconds, so k maximises (1 + a * sum p) / cost(k + 1); k = 0 is a plain
    step. On a convex curve, as p only falls with k, that is to add a node while its gain a * p_k over its marginal cost
    is above the rate reached so far; every k is looked at, since measured curves dip. Drafts are made at every step,
    whatever was chosen before, so that text that turns predictable is noticed at once.

    Weighing a node against the long-run rate instead (Dinkelbach's rule for a ratio of sums) would be optimal if
    probabilities were exact; replayed on recorded traces it was no better (`aded trace regret` compares with fixed
    budgets).
    """

    def __init__(self, curve: Callable[[], CostCurve]) -> None:
        self.max_nodes = MAX_NODES
        self._curve = curve  # asked for when there first is a draft: a drafter without any costs no measurement
        self._accepted = self._predicted = 4.0  # a few tokens of evidence that predictions are right

    @cached_property
    def _cost(self) -> NDArray[np.float64]:
        curve = self._curve()
        return np.array([curve(k + 1) for k in range(MAX_NODES + 1)])

    def choose(self, tree: DraftTree) -> DraftTree:
        """The part of `tree` worth verifying."""
        if not len(tree):
            return tree
        scores = np.sort(tree.log_probs)[::-1]
        calibration = self._accepted / self._predicted
        gain = 1.0 + calibration * np.concatenate([[0.0], np.cumsum(np.exp(scores))])
        best = int(np.argmax(gain / self._cost[: len(gain)]))
        return tree.limit(nodes=best)

    def observe(self, tree: DraftTree, accepted: int) -> None:
        """Correct the calibration by one verified tree of which `accepted` nodes were kept."""
        if len(tree):
            forget = 0.98
            self._accepted = forget * self._accepted + accepted
            self._predicted = forget * self._predicted + float(np.exp(tree.log_probs).sum())
