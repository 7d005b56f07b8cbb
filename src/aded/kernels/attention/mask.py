"""What the queries of a step see of the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from aded.kernels.jit import jit


@jit
def visible(mask):
    """What each query sees of a mask, bool (rows, tokens, keys), in order.

    Returns:
        runs: int64 (rows, 2): the first column of the run that all queries of a row see first, and its length.
        counts: int64 (rows, tokens): columns that each sees.
        others: int64 (rows, tokens, most): those after the run.
    """
    rows, tokens, keys = mask.shape
    runs, counts = np.zeros((rows, 2), np.int64), np.zeros((rows, tokens), np.int64)
    for r in range(rows):
        begin, end = np.int64(-1), np.int64(keys)
        for t in range(tokens):
            first = np.int64(0)
            while first < keys and not mask[r, t, first]:
                first += 1
            stop = first
            while stop < keys and mask[r, t, stop]:
                stop += 1
            counts[r, t] = stop - first
            for j in range(stop, keys):
                counts[r, t] += mask[r, t, j]
            if begin >= 0 and first != begin:
                end = np.int64(-1)  # they begin at different places
            begin, end = first, min(end, stop)
        runs[r, 0], runs[r, 1] = begin, max(end - begin, 0)
    most = np.int64(1)
    for r in range(rows):
        for t in range(tokens):
            most = max(most, counts[r, t] - runs[r, 1])
    others = np.zeros((rows, tokens, most), np.int64)
    for r in range(rows):
        for t in range(tokens):
            seen: Any = np.int64(0)
            for j in range(keys):
                if mask[r, t, j]:
                    if seen >= runs[r, 1]:
                        others[r, t, seen - runs[r, 1]] = j
                    seen += 1
    return runs, counts, others
