"""Whether a drafter's path probabilities are true: predicted against measured acceptance of draft nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aded.drafters.base import Drafter, Observation, Session
from aded.traces.replay import replay
from aded.traces.trace import Trace
from aded.tree import DraftTree

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


class _Watched:
    """A drafter whose verified drafts are kept account of."""

    def __init__(self, drafter: Drafter, seen: list[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> None:
        self._drafter, self._seen = drafter, seen
        self.top_k = drafter.top_k

    def start(self, prompt: Sequence[int]) -> _WatchedSession:
        return _WatchedSession(self._drafter.start(prompt), self._seen)


class _WatchedSession:
    def __init__(self, session: Session, seen: list[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> None:
        self._session, self._seen = session, seen

    def draft(self, max_nodes: int) -> DraftTree:
        return self._session.draft(max_nodes)

    def observe(self, observation: Observation) -> None:
        tree, node = observation.tree, -1
        accepted = np.zeros(len(tree), bool)
        for token in observation.emitted:
            node = tree.children(node).get(token, -1)
            if node < 0:
                break
            accepted[node] = True
        self._seen.append((np.exp(tree.log_probs), accepted))
        self._session.observe(observation)


def calibrate(
    trace: Trace, make: Callable[[], Drafter], nodes: int, *, keep_state: bool = False, bins: int = 20
) -> Calibration:
    """Replay a trace and compare, over all draft nodes, predicted path probability with acceptance."""
    seen: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    replay(trace, "watched", lambda: _Watched(make(), seen), nodes, keep_state=keep_state)
    probs = np.concatenate([p for p, _ in seen]).astype(np.float64)
    accepted = np.concatenate([a for _, a in seen])
    place = np.minimum((probs * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probs, bins) / count
        measured = np.bincount(place, accepted, bins) / count
    return Calibration(predicted, measured, count)
