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
_ALL_PRIOR = 16.0  # tokens of evidence that what is left after both is right
_ALL_KEPT = 0.995  # of that evidence, after one more draft


@jit
def _class(path, depth):
    return min((depth + 1) // 2, _DEPTHS - 1), np.searchsorted(_EDGES, path)


@jit
def _by_class(classes, path, depth):
    d, b = _class(path, depth)
    return min(path * classes[0, d, b] / classes[1, d, b], 1.0)


@jit
def _correct(paths, places, classes, requests, every, out):
    for i in range(len(places)):
        factor = requests[0, places[i]] / requests[1, places[i]] * every[0] / every[1]
        before = 1.0
        for j in range(paths.shape[1]):
            path = np.float64(paths[i, j])
            before = min(before, _by_class(classes, path, j) * factor) if path > 0.0 else 0.0
            out[i, j] = before


@jit
def _learn(places, accepted, verified, paths, corrected, classes, requests, every):
    for i in range(len(places)):
        place = places[i]
        n = verified[place]
        if n == 0:
            continue
        expected = 0.0
        for j in range(n):  # before any of these classes learns
            expected += _by_class(classes, np.float64(paths[place, j]), j)
        for j in range(n):
            path = np.float64(paths[place, j])
            d, b = _class(path, j)
            for k, more in enumerate((1.0 if j < accepted[i] else 0.0, path)):
                classes[k, d, b] = _CLASS_KEPT * classes[k, d, b] + (1.0 - _CLASS_KEPT) * _PRIOR + more
        for k, more in enumerate((np.float64(accepted[i]), expected)):
            requests[k, place] = _REQUEST_KEPT * requests[k, place] + more
        for k, more in enumerate((np.float64(accepted[i]), corrected[place, :n].sum())):
            every[k] = _ALL_KEPT * every[k] + more


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
        # Evidence: tokens accepted, and tokens that were expected to be.
        self._classes = np.full((2, _DEPTHS, len(_EDGES) + 1), _PRIOR)
        self._requests = np.full((2, places), _REQUEST_PRIOR)
        self._all = np.full(2, _ALL_PRIOR)
        self._paths = np.zeros((places, longest), np.float32)
        self._corrected = np.zeros((places, longest))

    def begin(self, place: int) -> None:
        """A new request in a place: it is like all others until it is known better."""
        self._requests[:, place] = _REQUEST_PRIOR

    def correct(self, places: NDArray[np.int64], paths: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities, float64 (r, k), that tokens are accepted, from what drafts say, float32 (r, k); never rising.

        They are remembered for `learn`.
        """
        corrected = np.empty(paths.shape)
        _correct(paths, places, self._classes, self._requests, self._all, corrected)
        self._paths[places], self._corrected[places] = paths, corrected
        return corrected

    def learn(self, places: NDArray[np.int64], accepted: NDArray[np.int64], verified: NDArray[np.int64]) -> None:
        """Take in how many tokens of drafts were accepted, int64 (r,), of as many as were verified, int64 (places,)."""
        evidence = (self._classes, self._requests, self._all)
        _learn(places, accepted, verified, self._paths, self._corrected, *evidence)

    def doubt(self, places: NDArray[np.int64]) -> None:
        """Believe a little less that these requests are unlike others: what failed before must be tried again."""
        self._requests[:, places] += (1 - _REQUEST_KEPT) * (_REQUEST_PRIOR - self._requests[:, places])
