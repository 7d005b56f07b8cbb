"""Chains of different lengths, in the rows of one array, as one list of their tokens."""

from __future__ import annotations

import numpy as np

from aded.kernels.jit import jit


@jit
def flatten(paths):
    """(row, path probability, depth, index of the token before or -1) of each token of `paths` (rows, longest).

    A row ends with its first 0.
    """
    rows, longest = paths.shape
    size = 0
    for r in range(rows):
        for j in range(longest):
            if paths[r, j] <= 0.0:
                break
            size += 1
    row, path = np.empty(size, np.int64), np.empty(size, np.float64)
    depth, parent = np.empty(size, np.int64), np.empty(size, np.int64)
    n = 0
    for r in range(rows):
        for j in range(longest):
            if paths[r, j] <= 0.0:
                break
            row[n], path[n], depth[n], parent[n] = r, paths[r, j], j, n - 1 if j else -1
            n += 1
    return row, path, depth, parent


@jit
def keep(paths, kept):
    """A copy of `paths` in which the tokens that are not kept, bool (n,), are 0."""
    rows, longest = paths.shape
    out = np.zeros_like(paths)
    n = 0
    for r in range(rows):
        for j in range(longest):
            if paths[r, j] <= 0.0:
                break
            if kept[n]:
                out[r, j] = paths[r, j]
            n += 1
    return out
