"""Which request is in which row: vLLM tells a proposer token ids only, and moves requests as others end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.representative.kernels import jit

__all__ = ["Requests"]

_TAIL = 16


@jit
def _same(tokens, row, length, tail):
    for j in range(len(tail)):
        at = length - len(tail) + j
        if tail[j] != (tokens[row, at] if at >= 0 else -1):
            return False
    return True


@jit
def _match(tokens, rows, before, row_places, known, tails, places):
    """Fill each row's place where the request that was in the row last goes on there; -1 elsewhere."""
    for i in range(len(rows)):
        place = row_places[rows[i]]
        places[i] = -1
        if place >= 0 and known[place] == before[i] and _same(tokens, rows[i], before[i], tails[place]):
            places[i] = place


@jit
def _note(tokens, rows, lengths, places, row_places, known, tails):
    row_places[:] = -1
    for i in range(len(rows)):
        place = places[i]
        row_places[rows[i]] = place
        known[place] = lengths[i]
        for j in range(_TAIL):
            at = lengths[i] - _TAIL + j
            tails[place, j] = tokens[rows[i], at] if at >= 0 else -1


class Requests:
    """Gives each request a place, and finds it again by its length and last tokens, whatever row it moved to.

    A request that was preempted and comes back finds its place if nobody has taken it. Two requests that cannot be
    told apart have the same last tokens, so a mistake costs at most a worse draft. Places are taken from the requests
    that were seen longest ago.

    Args:
        count: places, and most rows.
    """

    def __init__(self, count: int) -> None:
        self._known = np.full(count, -1, np.int64)
        self._tails = np.full((count, _TAIL), -1, np.int32)
        self._seen = np.zeros(count, np.int64)
        self._row_places = np.full(count, -1, np.int64)
        self._step = 0

    def find(
        self,
        tokens: NDArray[np.int32],
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        fresh: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Places int64 (r,) of the requests in these rows of `tokens` (n, length), and which of them are new (r,).

        Args:
            lengths: tokens of each request, int64 (r,).
            fresh: how many of them were emitted in the last step, int64 (r,).
        """
        self._step += 1
        places, before = np.empty(len(rows), np.int64), lengths - fresh
        _match(tokens, rows, before, self._row_places, self._known, self._tails, places)
        new = np.zeros(len(rows), np.bool_)
        if (lost := np.flatnonzero(places < 0)).size:
            free = np.ones(len(self._known), np.bool_)
            free[places[places >= 0]] = False
            for i in lost.tolist():
                as_long = np.flatnonzero(free & (self._known == before[i])).tolist()
                moved = [place for place in as_long if _same(tokens, rows[i], before[i], self._tails[place])]
                if not moved:
                    new[i] = True
                    continue
                places[i] = moved[0]
                free[moved[0]] = False
            waiting = iter(np.flatnonzero(free)[np.argsort(self._seen[free], kind="stable")].tolist())
            for i in np.flatnonzero(new).tolist():
                places[i] = next(waiting)
        self._seen[places] = self._step
        _note(tokens, rows, lengths, places, self._row_places, self._known, self._tails)
        return places, new
