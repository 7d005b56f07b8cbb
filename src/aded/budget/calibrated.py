"""Drafts whose choice is left to the engine: it is told how likely each drafted token is to be accepted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.batch import Drafts, StepOutcomes
from aded.budget.acceptance import Acceptance, Evidence
from aded.budget.policy import FixedBudget


class CalibratedBudget(FixedBudget):
    """The same number of nodes each step, with the probability that each is accepted.

    Args:
        max_draft_tokens: most nodes of a draft.
        slots: as many sequences as there can be at once.
        min_probability: a draft ends before its path is less likely.
        evidence: of acceptance over earlier sequences.

    Attributes:
        likely: of the drafts chosen last, the probability that each node is accepted, float64 (n,); no node's is above
            its parent's.
    """

    def __init__(
        self, max_draft_tokens: int, *, slots: int = 1, min_probability: float = 0.0, evidence: Evidence | None = None
    ) -> None:
        super().__init__(max_draft_tokens, min_probability=min_probability)
        self._acceptance = Acceptance(slots, evidence)
        self.evidence = self._acceptance.evidence
        self.likely: NDArray[np.float64] = np.empty(0)

    def start(self, slot: int) -> None:
        """A new sequence in a slot."""
        self._acceptance.start(slot)

    def draft_cap(self, slots: NDArray[np.int64]) -> int:
        self.likely, self.without = np.empty(0), ""  # there may be nothing to choose from
        return super().draft_cap(slots)

    def choose(self, slots: NDArray[np.int64], drafts: Drafts, emitted: NDArray[np.int64]) -> Drafts:
        chosen = super().choose(slots, drafts, emitted)
        self.without = "" if chosen.size else "nothing to draft"
        self.likely = self._acceptance.correct(slots, chosen.nodes())
        return chosen

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> None:
        """Learns from what was verified."""
        self._acceptance.observe(slots, outcomes)
