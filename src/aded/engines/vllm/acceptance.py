"""How likely drafted tokens are to be accepted: what the drafter says, corrected by what came of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.representative.kernels import jit

__all__ = ["Acceptance"]

_EDGES = np.array([0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 0.98])  # upper ones of path probabilities
_DEPTHS = 3  # classes: the first token of a draft, the next two, those after
_PRIOR = 5.0  # tokens of evidence that a class is as likely as it says
_CLASS_KEPT = 0.995  # of that evidence, after one more token of the class
_REQUEST_PRIOR = 8.0  # tokens of evidence that a request is like all others
_REQUEST_KEPT = 0.98  # of a request's evidence, after one more draft
_ALL_PRIOR = 16.0
_ALL_KEPT = 0.995


@jit
def _class(path, depth):
    return min((depth + 1) // 2, _DEPTHS - 1), np.searchsorted(_EDGES, path)


@jit
def _correct(paths, places, right, said, own_right, own_said, every, out):
    for i in range(len(places)):
        factor = own_right[places[i]] / own_said[places[i]] * every[0] / every[1]
        before = 1.0
        for j in range(paths.shape[1]):
            path = np.float64(paths[i, j])
            if path > 0.0:
                d, b = _class(path, j)
                before = min(before, min(path * right[d, b] / said[d, b], 1.0) * factor)
            else:
                before = 0.0
            out[i, j] = before


@jit
def _learn(places, accepted, chosen, paths, corrected, right, said, own_right, own_said, every):
    for i in range(len(places)):
        place = places[i]
        if chosen[place] == 0:
            continue
        of_class = of_all = 0.0
        for j in range(chosen[place]):
            path = np.float64(paths[place, j])
            d, b = _class(path, j)
            of_class += min(path * right[d, b] / said[d, b], 1.0)
            of_all += corrected[place, j]
        for j in range(chosen[place]):
            path = np.float64(paths[place, j])
            d, b = _class(path, j)
            kept = (1.0 - _CLASS_KEPT) * _PRIOR
            right[d, b] = _CLASS_KEPT * right[d, b] + kept + (1.0 if j < accepted[i] else 0.0)
            said[d, b] = _CLASS_KEPT * said[d, b] + kept + path
        own_right[place] = _REQUEST_KEPT * own_right[place] + accepted[i]
        own_said[place] = _REQUEST_KEPT * own_said[place] + of_class
        every[0] = _ALL_KEPT * every[0] + accepted[i]
        every[1] = _ALL_KEPT * every[1] + of_all


class Acceptance:
    """Corrects path probabilities three times, each by accepted tokens over those that were expected.

    First by classes of probability and depth, over all requests: a context met once may promise too much, and a short
    one too little. Then by request, for what one is about can be easier than what another is. Last altogether: of many
    drafts the best are chosen, and those are more often ones that promise too much.

    Args:
        places: as many requests as there can be.
        longest: most tokens of a draft.
    """

    def __init__(self, places: int, longest: int) -> None:
        self._right = np.full((_DEPTHS, len(_EDGES) + 1), _PRIOR)
        self._said = np.full((_DEPTHS, len(_EDGES) + 1), _PRIOR)
        self._own_right = np.full(places, _REQUEST_PRIOR)
        self._own_said = np.full(places, _REQUEST_PRIOR)
        self._all = np.full(2, _ALL_PRIOR)
        self._paths = np.zeros((places, longest), np.float32)
        self._corrected = np.zeros((places, longest))

    def begin(self, place: int) -> None:
        """A new request in a place: it is like all others until it is known better."""
        self._own_right[place] = self._own_said[place] = _REQUEST_PRIOR

    def correct(self, places: NDArray[np.int64], paths: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities, float64 (r, k), that tokens are accepted, from what drafts say, float32 (r, k); never rising.

        They are remembered for `learn`.
        """
        corrected = np.empty(paths.shape)
        _correct(paths, places, self._right, self._said, self._own_right, self._own_said, self._all, corrected)
        self._paths[places, : paths.shape[1]], self._corrected[places, : paths.shape[1]] = paths, corrected
        return corrected

    def learn(self, places: NDArray[np.int64], accepted: NDArray[np.int64], verified: NDArray[np.int64]) -> None:
        """Take in how many tokens of drafts were accepted, int64 (r,), of as many as were verified, int64 (places,)."""
        known = (self._right, self._said, self._own_right, self._own_said, self._all)
        _learn(places, accepted, verified, self._paths, self._corrected, *known)

    def doubt(self, places: NDArray[np.int64]) -> None:
        """Believe a little less that these requests are unlike others: what failed before must be tried again."""
        self._own_right[places] += (1 - _REQUEST_KEPT) * (_REQUEST_PRIOR - self._own_right[places])
        self._own_said[places] += (1 - _REQUEST_KEPT) * (_REQUEST_PRIOR - self._own_said[places])
