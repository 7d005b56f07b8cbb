"""Token Recycling: the latest top-k after each token, unfolded into a fixed tree."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import lru_cache

from aded.drafters.base import register
from aded.tree import DraftTree, Outcome


@lru_cache
def _template(nodes: int, width: int, depth: int) -> tuple[tuple[int, int], ...]:
    """(parent, rank) of each node: the paths whose ranks are jointly likeliest when rank r has weight 0.6 * 0.4**r."""
    weights = [0.6 * 0.4**rank for rank in range(width)]
    heap = [(-weights[rank], 0, -1, rank) for rank in range(width)]
    heapq.heapify(heap)
    shape: list[tuple[int, int]] = []
    while heap and len(shape) < nodes:
        score, level, parent, rank = heapq.heappop(heap)
        shape.append((parent, rank))
        if level + 1 < depth:
            for child in range(width):
                heapq.heappush(heap, (score * weights[child], level + 1, len(shape) - 1, child))
    return tuple(shape)


def latest_scores(root: int, outcome: Outcome) -> dict[int, list[int]]:
    """The likeliest tokens after each token of a scored tree, its root too; of one that stands twice, the later."""
    if outcome.top_ids is None:
        return {}
    above = [root, *outcome.tree.tokens.tolist()]
    return {token: row for token, row in zip(above, outcome.top_ids.tolist(), strict=True) if row[0] >= 0}


@register("token-recycling")
class TokenRecyclingDrafter:
    """A token -> latest top-k candidates matrix, grown on demand, under a fixed tree (arXiv 2408.08696).

    Args:
        top_k: candidates kept for each token.
        depth: most levels of the tree.
    """

    def __init__(self, *, top_k: int = 8, depth: int = 6) -> None:
        self.top_k, self.depth = top_k, depth
        self.candidates: dict[int, list[int]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of learned state, ids counted as 4 each."""
        return 4 * (self.top_k + 1) * len(self.candidates)

    def start(self, prompt: Sequence[int]) -> _Session:
        return _Session(self, prompt)


class _Session:
    def __init__(self, drafter: TokenRecyclingDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._last = int(prompt[-1]) if len(prompt) else -1

    def draft(self, max_nodes: int) -> DraftTree:
        tokens: list[int] = []
        parents: list[int] = []
        index: dict[int, int] = {-1: -1}
        for node, (parent, rank) in enumerate(_template(max(max_nodes, 0), self._drafter.top_k, self._drafter.depth)):
            if parent not in index:
                continue
            above = tokens[index[parent]] if parent >= 0 else self._last
            row = self._drafter.candidates.get(above, ())
            if rank < len(row):
                index[node] = len(tokens)
                tokens.append(row[rank])
                parents.append(index[parent])
        return DraftTree.build(tokens, parents)

    def observe(self, outcome: Outcome) -> None:
        self._drafter.candidates |= latest_scores(self._last, outcome)
        if len(outcome.emitted):
            self._last = int(outcome.emitted[-1])
