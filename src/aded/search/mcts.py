"""The paper's draft maker: Monte-Carlo tree search with a PUCT score over the representative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.kernels.jit import jit
from aded.representative import Interpolation
from aded.representative.interpolation import MAX_CANDIDATES, interpolate, look_up
from aded.search.best_first import fill_context
from aded.tree import DraftTree


@jit
def _search(layers, orders, shares, tail, c1, c2, iterations, depth):
    capacity = iterations * MAX_CANDIDATES + MAX_CANDIDATES
    tokens = np.empty(capacity, np.int32)
    parents = np.empty(capacity, np.int32)
    priors = np.empty(capacity, np.float32)
    scores = np.empty(capacity, np.float32)
    first = np.full(capacity + 1, -1, np.int32)  # index 0 is the root, node i is at i + 1
    width = np.zeros(capacity + 1, np.int32)
    visits = np.zeros(capacity + 1, np.int32)
    reward = np.zeros(capacity + 1, np.float64)
    keys = np.zeros(orders[-1] + 1, np.uint64)
    slots = np.empty((len(orders), len(layers)), np.int64)
    context = np.empty(orders[-1], np.int32)
    ids = np.empty(MAX_CANDIDATES, np.int32)
    probs = np.empty(MAX_CANDIDATES, np.float32)
    size = 0
    for _ in range(iterations):
        node = -1
        level = 0
        while True:
            if first[node + 1] == -1:  # never expanded: expand, and stop here
                first[node + 1] = size
                if level < depth:
                    fill_context(context, tail, tokens, parents, node)
                    look_up(layers, orders, context, keys, slots)
                    found = interpolate(layers, orders, shares, slots, ids, probs)
                    base = scores[node] if node >= 0 else np.float32(0.0)
                    for m in range(found):
                        tokens[size] = ids[m]
                        parents[size] = node
                        priors[size] = min(probs[m], np.float32(1.0))
                        scores[size] = base + np.log(priors[size])
                        size += 1
                    width[node + 1] = found
                break
            if width[node + 1] == 0:
                break
            total = visits[node + 1]
            bonus = c1 + np.log((total + c2 + 1.0) / c2)
            best = -1
            best_score = -1.0
            for child in range(first[node + 1], first[node + 1] + width[node + 1]):
                n = visits[child + 1]
                mean = reward[child + 1] / n if n > 0 else 0.0
                puct = mean + bonus * priors[child] * np.sqrt(max(total, 1)) / (1.0 + n)
                if puct > best_score:
                    best_score = puct
                    best = child
            node = best
            level += 1
        # The reward of a visit is the probability of the path it reached.
        value = np.exp(scores[node]) if node >= 0 else 0.0
        while True:
            visits[node + 1] += 1
            reward[node + 1] += value
            if node < 0:
                break
            node = parents[node]
    return tokens[:size], parents[:size], scores[:size], visits[1 : size + 1]


def mcts(
    source: Interpolation,
    tail: NDArray[np.int32],
    budget: int,
    *,
    c1: float = 32.0,
    c2: float = 8.0,
    iterations: int = 150,
    depth: int = 4,
    extended_paths: int = 24,
) -> DraftTree:
    """A draft of at most `budget` nodes after `tail` (int32, the sequence's last tokens).

    A child is chosen by Q + (c1 + ln((N + c2 + 1) / c2)) p sqrt(N) / (1 + n): Q mean reward, N and n visits of parent
    and child, p the representative's probability (ADED, arXiv 2407.12021; the defaults are the released code's).
    The most visited nodes make the draft; each of the `extended_paths` most visited paths gains its likeliest next
    token.
    """
    if budget <= 0:
        return DraftTree.empty()
    tokens, parents, scores, visits = _search(*source.lookup_args, tail, float(c1), float(c2), iterations, depth)
    visited = np.flatnonzero(visits > 0)
    inner = np.zeros(len(tokens), np.bool_)
    inner[parents[visited][parents[visited] >= 0]] = True
    leaves = visited[~inner[visited]]
    leaves = leaves[np.argsort(-visits[leaves], kind="stable")][:extended_paths]
    # Path order: by visits, parents before children because a parent is visited at least as often and made first.
    order = visited[np.lexsort((visited, -visits[visited]))].tolist()
    edges: dict[tuple[int, int], int] = {}  # (parent, token) -> node of the draft
    index: dict[int, int] = {-1: -1}  # node of the search -> node of the draft
    found: list[float] = []

    def add(token: int, parent: int, score: float) -> int:
        """The node for this token, which may be there already: an extension can name a child that was also visited."""
        node = edges.setdefault((parent, token), len(edges))
        if node == len(found):
            found.append(score)
        return node

    room = max(budget - len(leaves), (budget + 1) // 2)
    for node in order[:room]:
        index[node] = add(int(tokens[node]), index[int(parents[node])], float(scores[node]))
    context = np.empty(source.context_length, np.int32)
    for leaf in leaves.tolist():
        if len(edges) < budget and leaf in index:
            fill_context(context, tail, tokens, parents, leaf)
            for token, probability in source.predict(context)[:1]:
                add(token, index[leaf], float(scores[leaf]) + float(np.log(min(max(probability, 1e-30), 1.0))))
    for node in order[room:]:
        if len(edges) < budget:
            index[node] = add(int(tokens[node]), index[int(parents[node])], float(scores[node]))
    return DraftTree.build([token for _, token in edges], [parent for parent, _ in edges], found)
