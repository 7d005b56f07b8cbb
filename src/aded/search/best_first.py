"""Best-first search: always add the node whose whole path is likeliest.

With calibrated path probabilities this is the tree of `budget` nodes with the most expected accepted tokens, because
a node adds exactly its path probability to that expectation (the argument of DySpec, arXiv 2410.11744).
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from aded.kernels.jit import jit
from aded.representative import Interpolation
from aded.representative.interpolation import MAX_CANDIDATES, interpolate, look_up
from aded.tree import DraftTree


@jit
def fill_context(context, tail, tokens, parents, node):
    """Write the last tokens of the prefix plus the path down to `node` into `context`, -1 where there is none."""
    i = len(context) - 1
    while i >= 0 and node >= 0:
        context[i] = tokens[node]
        node = parents[node]
        i -= 1
    j = len(tail) - 1
    while i >= 0:
        context[i] = tail[j] if j >= 0 else -1
        i -= 1
        j -= 1


@jit
def _search(layers, orders, shares, tail, budget, depth, threshold):
    tokens = np.empty(budget, np.int32)
    parents = np.empty(budget, np.int32)
    depths = np.empty(budget, np.int32)
    scores = np.empty(budget, np.float32)
    keys = np.zeros(orders[-1] + 1, np.uint64)
    slots = np.empty((len(orders), len(layers)), np.int64)
    context = np.empty(orders[-1], np.int32)
    ids = np.empty(MAX_CANDIDATES, np.int32)
    probs = np.empty(MAX_CANDIDATES, np.float32)
    heap = [(np.float32(0.0), np.int64(0), np.int64(-1), np.int64(-1))]
    heap.pop()
    size = 0
    node = -1
    pushed = 0
    while True:
        level = depths[node] + 1 if node >= 0 else 0
        base = scores[node] if node >= 0 else np.float32(0.0)
        if level < depth:
            fill_context(context, tail, tokens, parents, node)
            look_up(layers, orders, context, keys, slots)
            found = interpolate(layers, orders, shares, slots, ids, probs)
            for m in range(found):
                score = np.float32(base + np.log(min(probs[m], np.float32(1.0))))
                if score >= threshold:
                    pushed += 1
                    heapq.heappush(heap, (-score, np.int64(pushed), np.int64(node), np.int64(ids[m])))
        if size == budget or len(heap) == 0:
            return tokens[:size], parents[:size], depths[:size], scores[:size]
        best = heapq.heappop(heap)
        node = size
        scores[node] = -best[0]
        parents[node] = best[2]
        tokens[node] = best[3]
        depths[node] = depths[parents[node]] + 1 if parents[node] >= 0 else 0
        size += 1


def best_first(
    source: Interpolation,
    tail: NDArray[np.int32],
    budget: int,
    *,
    depth: int = 64,
    min_probability: float = 1e-4,
) -> DraftTree:
    """A draft of at most `budget` nodes after `tail` (int32, the sequence's last tokens).

    Args:
        source: where the probabilities come from.
        tail: at least the last `source.context_length` tokens where there are so many.
        budget: most nodes.
        depth: most levels.
        min_probability: a path less likely than this is not worth its place.
    """
    if budget <= 0:
        return DraftTree.empty()
    return DraftTree(*_search(*source.lookup_args, tail, budget, depth, np.float32(np.log(min_probability))))
