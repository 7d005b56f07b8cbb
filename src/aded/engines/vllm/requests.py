"""Which request is in which row: vLLM tells a proposer token ids only, and moves requests as others end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.kernels.jit import jit

_TAIL = 16


@jit
def _same(tokens, row, length, tail):
    for j in range(len(tail)):
        at = length - len(tail) + j
        if tail[j] != (tokens[row, at] if at >= 0 else -1):
            return False
    return True


@jit
def _match(tokens, rows, before, row_slots, known, tails, slots):
    """Fill each row's slot where the request that was in the row last goes on there; -1 elsewhere."""
    for i in range(len(rows)):
        slot = row_slots[rows[i]]
        slots[i] = -1
        if slot >= 0 and known[slot] == before[i] and _same(tokens, rows[i], before[i], tails[slot]):
            slots[i] = slot


@jit
def _note(tokens, rows, lengths, slots, row_slots, known, tails):
    row_slots[:] = -1
    for i in range(len(rows)):
        slot = slots[i]
        row_slots[rows[i]] = slot
        known[slot] = lengths[i]
        for j in range(_TAIL):
            at = lengths[i] - _TAIL + j
            tails[slot, j] = tokens[rows[i], at] if at >= 0 else -1


@jit
def recent_tokens(tokens, rows, lengths, width):
    """A copy of the last `width` of the first `lengths` (r,) tokens in `rows` (r,), int32; -1 before the first."""
    last = np.full((len(rows), width), -1, np.int32)
    for r in range(len(rows)):
        n = min(width, lengths[r])
        last[r, width - n :] = tokens[rows[r], lengths[r] - n : lengths[r]]
    return last


class Requests:
    """Gives each request a slot, and finds it again by its length and last tokens, whatever row it moved to.

    A request that was preempted and comes back finds its slot if nobody has taken it. Two requests that cannot be
    told apart have the same last tokens, so a mistake costs at most a worse draft. Slots are taken from the requests
    that were seen longest ago.

    Args:
        count: slots, and most rows.
    """

    def __init__(self, count: int) -> None:
        self._known = np.full(count, -1, np.int64)
        self._tails = np.full((count, _TAIL), -1, np.int32)
        self._seen = np.zeros(count, np.int64)
        self._row_slots = np.full(count, -1, np.int64)
        self._step = 0

    def find(
        self,
        tokens: NDArray[np.int32],
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        fresh: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Slots int64 (r,) of the requests in these rows of `tokens` (n, length), and which of them are new (r,).

        Args:
            lengths: tokens of each request, int64 (r,).
            fresh: how many of them were emitted in the last step, int64 (r,).
        """
        self._step += 1
        slots, before = np.empty(len(rows), np.int64), lengths - fresh
        _match(tokens, rows, before, self._row_slots, self._known, self._tails, slots)
        new = np.zeros(len(rows), np.bool_)
        if (lost := np.flatnonzero(slots < 0)).size:
            free = np.ones(len(self._known), np.bool_)
            free[slots[slots >= 0]] = False
            for i in lost.tolist():
                as_long = np.flatnonzero(free & (self._known == before[i])).tolist()
                moved = [slot for slot in as_long if _same(tokens, rows[i], before[i], self._tails[slot])]
                if not moved:
                    new[i] = True
                    continue
                slots[i] = moved[0]
                free[moved[0]] = False
            waiting = iter(np.flatnonzero(free)[np.argsort(self._seen[free], kind="stable")].tolist())
            for i in np.flatnonzero(new).tolist():
                slots[i] = next(waiting)
        self._seen[slots] = self._step
        _note(tokens, rows, lengths, slots, self._row_slots, self._known, self._tails)
        return slots, new
