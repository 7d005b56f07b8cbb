"""An n-gram trie of everything seen, drafted from by recency or by frequency, as SGLang's n-gram speculation does."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

from aded.drafters.base import register
from aded.tree import DraftTree, Outcome

__all__ = ["NgramTrieDrafter"]


class _Node:
    __slots__ = ("children", "count", "seen")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.count = 0
        self.seen = 0


class NgramTrieDrafter:
    """Windows of the text in a trie; a draft grows from the places where the latest tokens stood before.

    Args:
        by: "frequency" takes the likeliest continuations first, "recency" the latest ones, breadth by breadth.
        depth: longest window kept (18 in SGLang).
        match: most tokens of context matched (12 there).
        breadth: most branches a node of a recency draft has, reached at the longest match (10 there).
    """

    top_k = 0

    def __init__(self, *, by: str, depth: int = 18, match: int = 12, breadth: int = 10) -> None:
        self.by, self.depth, self.match, self.breadth = by, depth, match, breadth
        self.root = _Node()
        self.clock = 0

    def start(self, prompt: Sequence[int]) -> _Session:
        session = _Session(self)
        session.add(prompt)
        return session


class _Session:
    def __init__(self, drafter: NgramTrieDrafter) -> None:
        self._drafter = drafter
        self._windows: list[_Node] = []  # where each of the latest windows stands, longest first

    def add(self, tokens: Sequence[int]) -> None:
        drafter = self._drafter
        for token in tokens:
            drafter.clock += 1
            self._windows.append(drafter.root)
            for i, node in enumerate(self._windows):
                child = node.children.setdefault(token, _Node())
                child.count += 1
                child.seen = drafter.clock
                self._windows[i] = child
            if len(self._windows) >= drafter.depth:
                self._windows.pop(0)

    def observe(self, outcome: Outcome) -> None:
        self.add(outcome.emitted)

    def draft(self, max_nodes: int) -> DraftTree:
        tokens: list[int] = []
        parents: list[int] = []
        index: dict[tuple[int, int], int] = {}
        matches = self._windows[-self._drafter.match :]
        for place, match in enumerate(matches):
            length = len(matches) - place
            where: dict[int, int] = {id(match): -1}
            for parent, token, node in self._grow(match, length):
                if len(tokens) >= max_nodes:
                    return DraftTree.build(tokens, parents)
                edge = (where[id(parent)], token)
                if edge not in index:
                    index[edge] = len(tokens)
                    tokens.append(token)
                    parents.append(edge[0])
                where[id(node)] = index[edge]
        return DraftTree.build(tokens, parents)

    def _grow(self, match: _Node, length: int) -> Iterator[tuple[_Node, int, _Node]]:
        """(parent, token, child) of one match's continuations, parents first."""
        if self._drafter.by == "recency":
            breadth = 1 + round((self._drafter.breadth - 1) * (length - 1) / max(self._drafter.match - 1, 1))
            level = [match]
            while level:
                following = []
                for node in level:
                    latest = sorted(node.children.items(), key=lambda item: -item[1].seen)[:breadth]
                    for token, child in latest:
                        yield node, token, child
                        following.append(child)
                level = following
            return
        order = 0
        heap: list[tuple[float, int, _Node, int, _Node]] = []

        def push(node: _Node, probability: float) -> None:
            nonlocal order
            total = sum(child.count for child in node.children.values())
            for token, child in node.children.items():
                order += 1
                heapq.heappush(heap, (-probability * child.count / total, order, node, token, child))

        push(match, 1.0)
        while heap:
            score, _, node, token, child = heapq.heappop(heap)
            yield node, token, child
            push(child, -score)


@register("ngram-trie-frequency")
def _frequency(**options: Any) -> NgramTrieDrafter:
    return NgramTrieDrafter(by="frequency", **options)


@register("ngram-trie-recency")
def _recency(**options: Any) -> NgramTrieDrafter:
    return NgramTrieDrafter(by="recency", **options)
