"""RACER (Zhang et al., ACL 2026, arXiv 2604.14885), by its rule: passages met before, and a tree of the latest scores.

Written from the paper's sections 3.1 to 3.3, with the defaults of its code. One thing differs: suffixes of the text are
looked up one by one, so they are always found; the failure links of the authors' automaton are mended now and then.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from aded.drafters.base import TokenBuffer, register
from aded.drafters.token_recycling import latest_scores
from aded.tree import DraftTree, Outcome
from benchmarks.peers.paths import tree_of_paths

__all__ = ["RacerDrafter"]

_ROOT = 0


class _Passages:
    """Windows of the text in a trie of bounded size: its least recently seen leaf makes room for a new node.

    Attributes:
        children: by node, the nodes of the tokens that followed.
        times: how often each was seen.
        token: of each.
    """

    def __init__(self, most: int) -> None:
        self._most, self._next = most, 1
        self.children: dict[int, dict[int, int]] = {_ROOT: {}}
        self.times: dict[int, int] = {_ROOT: 0}
        self.token: dict[int, int] = {_ROOT: -1}
        self.parent: dict[int, int] = {_ROOT: -1}
        self._seen: OrderedDict[int, None] = OrderedDict()

    def add(self, window: Sequence[int]) -> None:
        node, path = _ROOT, []
        for token in window:
            following = self.children[node]
            if token not in following:
                if len(self.children) > self._most:
                    self._forget(keep=node)
                following[token] = self._make(node, token)
            node = following[token]
            self.times[node] += 1
            path.append(node)
        for node in reversed(path):  # so that no leaf is seen later than what it hangs from
            self._seen[node] = None
            self._seen.move_to_end(node)

    def find(self, tokens: Sequence[int]) -> int | None:
        node = _ROOT
        for token in tokens:
            following = self.children[node].get(token)
            if following is None:
                return None
            node = following
        return node

    def _make(self, parent: int, token: int) -> int:
        node, self._next = self._next, self._next + 1
        self.children[node], self.times[node], self.token[node], self.parent[node] = {}, 0, token, parent
        return node

    def _forget(self, keep: int) -> None:
        oldest = next((node for node in self._seen if not self.children[node] and node != keep), None)
        if oldest is not None:
            del self._seen[oldest], self.children[self.parent[oldest]][self.token[oldest]]
            for kept in (self.children, self.times, self.token, self.parent):
                del kept[oldest]


class RacerDrafter:
    """What followed the longest suffixes of the text most often; the rest of the draft unfolds latest scores.

    Args:
        top_k: tokens kept of the latest scores after each token, and children of the root.
        window: tokens of a passage.
        most: nodes of passages in all.
    """

    def __init__(self, *, top_k: int = 8, window: int = 10, most: int = 100_000) -> None:
        self.top_k, self.window = top_k, window
        self.passages = _Passages(most)
        self.scores: dict[int, list[int]] = {}

    def start(self, prompt: Sequence[int]) -> _Session:
        return _Session(self, prompt)

    def unfold(self, root: int, most: int) -> Iterator[list[int]]:
        """Paths of the tree of scores, at most `most` of them: a child has half the children that its elder has."""
        waiting: deque[tuple[list[int], int, int]] = deque([([], root, self.top_k)])
        while waiting and most > 0:
            path, token, breadth = waiting.popleft()
            theirs = breadth if not path else breadth >> 1
            for child in self.scores.get(token, ())[: min(breadth, most)]:
                yield [*path, child]
                waiting.append(([*path, child], child, max(theirs, 1)))
                theirs >>= 1
                most -= 1

    def follow(self, text: Sequence[int], most: int) -> list[list[int]]:
        """Paths that followed suffixes of two tokens or more, the `most` most frequent nodes of all of them."""
        passages, paths = self.passages, list[list[int]]()
        heap: list[tuple[int, int, int, int, list[int]]] = []
        order = 0

        def push(node: int, path: list[int]) -> None:
            nonlocal order
            for token, child in passages.children[node].items():
                order += 1
                heapq.heappush(heap, (-passages.times[child], len(path), order, child, [*path, token]))

        for length in range(2, self.window):
            if length <= len(text) and (found := passages.find(text[-length:])) is not None:
                push(found, [])
        while heap and len(paths) < most:
            _, _, _, node, path = heapq.heappop(heap)
            paths.append(path)
            push(node, path)
        return paths


class _Session:
    def __init__(self, drafter: RacerDrafter, prompt: Sequence[int]) -> None:
        self._drafter, self._tokens = drafter, TokenBuffer(())
        self._add(prompt)

    def draft(self, max_nodes: int) -> DraftTree:
        if max_nodes < 1 or not len(self._tokens):
            return DraftTree.empty()
        text = self._tokens.view(self._drafter.window).tolist()
        paths = self._drafter.follow(text, max_nodes)
        paths += self._drafter.unfold(text[-1], max_nodes - len(paths))
        return tree_of_paths(paths, max_nodes)

    def observe(self, outcome: Outcome) -> None:
        if len(self._tokens):
            self._drafter.scores |= latest_scores(int(self._tokens.view(1)[0]), outcome)
        self._add(outcome.emitted)

    def _add(self, tokens: Sequence[int]) -> None:
        window = self._drafter.window
        for token in tokens:
            self._tokens.extend([token])
            if len(self._tokens) >= window:
                self._drafter.passages.add(self._tokens.view(window).tolist())


register("racer")(RacerDrafter)
