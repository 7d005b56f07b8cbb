"""The last tokens of requests, out of vLLM's table of all their tokens."""

from __future__ import annotations

import numpy as np

from aded.kernels.jit import jit


@jit
def recent_tokens(tokens, rows, lengths, width):
    """A copy of the last `width` of the first `lengths` (r,) tokens in `rows` (r,), int32; -1 before the first."""
    last = np.full((len(rows), width), -1, np.int32)
    for r in range(len(rows)):
        n = min(width, lengths[r])
        last[r, width - n :] = tokens[rows[r], lengths[r] - n : lengths[r]]
    return last
