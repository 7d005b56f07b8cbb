"""How likely drafted tokens are to be accepted: what the drafter says, corrected by what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.batch import Nodes, StepOutcomes
from aded.kernels.jit import jit

EDGES = np.array([0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 0.98])  # upper ones of path probabilities
_DEPTHS = 3  # classes: the first token of a path, the next two, those after
CLASS_PRIOR = 5.0  # tokens of evidence that a class is as likely as it says
CLASS_KEPT = 0.995  # of that evidence, after one more token of the class
SEQUENCE_PRIOR = 8.0  # tokens of evidence that a sequence is like all others
SEQUENCE_KEPT = 0.98  # of a sequence's evidence, after one more draft
ALL_PRIOR = 16.0  # tokens of evidence that what is left after both is right
ALL_KEPT = 0.995  # of that evidence, after one more draft


@jit
def _class(path, depth):
    return min((depth + 1) // 2, _DEPTHS - 1), np.searchsorted(EDGES, path)


@jit
def _by_class(classes, path, depth):
    d, b = _class(path, depth)
    return min(path * classes[0, d, b] / classes[1, d, b], 1.0)


@jit
def _correct(draft, path, depth, parent, slots, classes, every, sequences, out):
    for i in range(len(draft)):
        slot = slots[draft[i]]
        factor = sequences[0, slot] / sequences[1, slot] * every[0] / every[1]
        above = out[parent[i]] if parent[i] >= 0 else 1.0
        out[i] = min(above, _by_class(classes, path[i], depth[i]) * factor)


@jit
def _learn(draft, path, depth, parent, slots, classes, every, sequences, accepted):
    corrected = np.empty(len(draft))
    _correct(draft, path, depth, parent, slots, classes, every, sequences, corrected)
    start, count = 0, len(draft)
    while start < count:
        end, slot = start, slots[draft[start]]
        expected = total = kept = 0.0
        while end < count and draft[end] == draft[start]:  # before any of these classes learns
            expected += _by_class(classes, path[end], depth[end])
            total += corrected[end]
            kept += 1.0 if accepted[end] else 0.0
            end += 1
        for i in range(start, end):
            d, b = _class(path[i], depth[i])
            for k, more in enumerate((1.0 if accepted[i] else 0.0, path[i])):
                classes[k, d, b] = CLASS_KEPT * classes[k, d, b] + (1.0 - CLASS_KEPT) * CLASS_PRIOR + more
        for k, more in enumerate((kept, expected)):
            sequences[k, slot] = SEQUENCE_KEPT * sequences[k, slot] + more
        for k, more in enumerate((kept, total)):
            every[k] = ALL_KEPT * every[k] + more
        start = end


@dataclass(eq=False)
class Evidence:
    """What is known of a drafter's probabilities over all sequences; it may outlive them.

    Attributes:
        classes: float64, (2, depths, probabilities): tokens accepted and tokens expected, of each class.
        every: float64, (2,): the same of all that were chosen.
    """

    classes: NDArray[np.float64] = field(
        default_factory=lambda: np.full((2, _DEPTHS, len(EDGES) + 1), CLASS_PRIOR, np.float64)
    )
    every: NDArray[np.float64] = field(default_factory=lambda: np.full(2, ALL_PRIOR))

    def by_class(self) -> list[tuple[str, float, float]]:
        """Of each class that was met: where on its path and how likely its tokens are said to be, the share of
        them that was accepted, and the share that was expected."""
        bounds, places = [0.0, *EDGES.tolist(), 1.0], ("first", "second and third", "later")
        found = []
        for d, place in enumerate(places):
            for b in range(len(EDGES) + 1):
                accepted, expected = self.classes[0, d, b], self.classes[1, d, b]
                if (accepted, expected) != (CLASS_PRIOR, CLASS_PRIOR):
                    said = (bounds[b] + bounds[b + 1]) / 2
                    name = f"{place}, {bounds[b]:.2f}-{bounds[b + 1]:.2f}"
                    found.append((name, min(said * accepted / expected, 1.0), said))
        return found


class Acceptance:
    """Corrects path probabilities three times, each by accepted tokens over those that were expected.

    First by classes of probability and depth, over all sequences: a context met once may promise too much, and a short
    one too little. Then by sequence, for what one is about can be easier than what another is. Last altogether: of many
    drafts the best are chosen, and those are more often ones that promise too much.

    Args:
        slots: as many sequences as there can be at once.
        evidence: what was learned over earlier sequences, and goes on being learned.
    """

    def __init__(self, slots: int, evidence: Evidence | None = None) -> None:
        self.evidence = Evidence() if evidence is None else evidence
        self._sequences = np.full((2, slots), SEQUENCE_PRIOR)

    @property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.evidence.classes, self.evidence.every, self._sequences

    def start(self, slot: int) -> None:
        """A new sequence in a slot: it is like all others until it is known better."""
        self._sequences[:, slot] = SEQUENCE_PRIOR

    def correct(self, slots: NDArray[np.int64], nodes: Nodes) -> NDArray[np.float64]:
        """Probability that each node is accepted, float64 (n,); no node's is above its parent's.

        Args:
            slots: the sequence of each draft, int64 (drafts,).
            nodes: of all drafts.
        """
        corrected = np.empty(len(nodes.draft))
        _correct(*nodes, slots, *self._arrays, corrected)
        return corrected

    def learn(self, slots: NDArray[np.int64], nodes: Nodes, accepted: NDArray[np.bool_]) -> None:
        """Take in which of the verified nodes were accepted, bool (n,)."""
        _learn(*nodes, slots, *self._arrays, accepted)

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> None:
        """Take in what became of the drafts of these sequences."""
        nodes, accepted = outcomes.verified()
        if len(accepted):
            self.learn(slots, nodes, accepted)

    def relax(self, slots: NDArray[np.int64]) -> None:
        """Nothing was verified: believe a little less what was learned, or what failed would never be tried again."""
        self._sequences[:, slots] += (1 - SEQUENCE_KEPT) * (SEQUENCE_PRIOR - self._sequences[:, slots])
        self.evidence.classes += (1 - CLASS_KEPT) * (CLASS_PRIOR - self.evidence.classes)
        self.evidence.every += (1 - ALL_KEPT) * (ALL_PRIOR - self.evidence.every)
