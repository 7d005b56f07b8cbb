"""Whether a drafter's path probabilities are true: predicted against measured acceptance of draft nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aded.budget import FixedBudget
from aded.drafters.base import Drafter
from aded.traces.replay import decode_sequence
from aded.traces.trace import Trace
from aded.tree import Outcome

__all__ = ["Calibration", "calibrate"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Draft nodes in bins of predicted path probability.

    Attributes:
        predicted: float64, (bins,): mean predicted probability of the nodes in a bin; nan in an empty one.
        measured: float64, (bins,): share of them that were accepted.
        nodes: int64, (bins,): how many there were.
        error: expected calibration error: mean distance of predicted and measured, weighted by nodes.
        total: accepted nodes over their predicted number.
    """

    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    nodes: NDArray[np.int64]

    @property
    def error(self) -> float:
        filled = self.nodes > 0
        gap = np.abs(self.predicted[filled] - self.measured[filled])
        return float((gap * self.nodes[filled]).sum() / max(self.nodes.sum(), 1))

    @property
    def total(self) -> float:
        filled = self.nodes > 0
        accepted = (self.measured[filled] * self.nodes[filled]).sum()
        return float(accepted / (self.predicted[filled] * self.nodes[filled]).sum())


def calibrate(
    trace: Trace, make: Callable[[], Drafter], max_draft_tokens: int, *, keep_state: bool = False, bins: int = 20
) -> Calibration:
    """Replay a trace and compare, over all draft nodes, predicted path probability with acceptance."""
    drafter, outcomes = make(), list[Outcome]()
    for sequence in trace.sequences:
        drafter = drafter if keep_state else make()
        outcomes += decode_sequence(sequence, drafter, FixedBudget(max_draft_tokens))[1]
    probs = np.exp(np.concatenate([outcome.tree.log_probs for outcome in outcomes])).astype(np.float64)
    accepted = np.concatenate([outcome.accepted_nodes() for outcome in outcomes])
    place = np.minimum((probs * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probs, bins) / count
        measured = np.bincount(place, accepted, bins) / count
    return Calibration(predicted, measured, count)
