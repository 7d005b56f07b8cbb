"""The draft tree, and what became of it: flat arrays, parents before children, the root left out.

The root is the last committed token; it is not part of a draft, so a node without a drafted parent has parent -1
and depth 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.errors import DraftTreeError

__all__ = ["DraftTree", "Outcome"]


def _array(values: Any, dtype: type) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(values, dtype=dtype)
    if array.ndim != 1:
        raise DraftTreeError(f"a draft tree holds one-dimensional arrays; got shape {array.shape}")
    return array


@dataclass(frozen=True, eq=False)
class DraftTree:
    """Continuations proposed for one sequence.

    Attributes:
        tokens: int32, shape (n,): token id of each node.
        parents: int32, shape (n,): index of each node's parent, always smaller than its own; -1 under the root.
        depths: int32, shape (n,): edges between the node and the first drafted node of its path (0 under the root).
        log_probs: float32, shape (n,): the drafter's log-probability of the whole path down to the node, at most 0.
    """

    tokens: NDArray[np.int32]
    parents: NDArray[np.int32]
    depths: NDArray[np.int32]
    log_probs: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def empty(cls) -> DraftTree:
        """A draft of nothing: verification is then a plain decoding step."""
        return _EMPTY

    @classmethod
    def chain(cls, tokens: Sequence[int], log_probs: Sequence[float] | None = None) -> DraftTree:
        """One path. Without `log_probs` every node counts as certain (log-probability 0)."""
        n = len(tokens)
        return cls.build(tokens, range(-1, n - 1), log_probs)

    @classmethod
    def build(
        cls, tokens: Sequence[int], parents: Sequence[int], log_probs: Sequence[float] | None = None
    ) -> DraftTree:
        """A validated tree from tokens and parents; depths follow from the parents.

        Raises:
            DraftTreeError: arrays of different lengths, a parent that does not come before its child, a negative
                token, two siblings with one token, or a log-probability above zero, above its parent's, or NaN.
        """
        token_array, parent_array = _array(tokens, np.int32), _array(parents, np.int32)
        n = len(token_array)
        scores = np.zeros(n, np.float32) if log_probs is None else _array(log_probs, np.float32)
        if len(parent_array) != n or len(scores) != n:
            raise DraftTreeError(f"{n} tokens, {len(parent_array)} parents and {len(scores)} log-probabilities")
        depths = np.zeros(n, np.int32)
        for i, parent in enumerate(parent_array.tolist()):
            depths[i] = depths[parent] + 1 if 0 <= parent < i else 0
        tree = cls(token_array, parent_array, depths, scores)
        tree.validate()
        return tree

    def validate(self) -> None:
        """Check every invariant; see `build` for what is an error."""
        n = len(self.tokens)
        if any(len(a) != n for a in (self.parents, self.depths, self.log_probs)):
            raise DraftTreeError("the arrays of a draft tree must have one length")
        if n == 0:
            return
        order = np.arange(n)
        if len(wrong := np.flatnonzero((self.parents < -1) | (self.parents >= order))):
            node, parent = wrong[0], self.parents[wrong[0]]
            raise DraftTreeError(f"node {node} has parent {parent}; a parent must come before its child, or be -1")
        if (self.tokens < 0).any():
            raise DraftTreeError("a token id cannot be negative")
        below = self.parents >= 0
        expected = np.where(below, self.depths[self.parents] + 1, 0)
        if (self.depths != expected).any():
            raise DraftTreeError("depths do not follow from the parents")
        edges = self.parents.astype(np.int64) << 32 | self.tokens.astype(np.int64)
        if len(np.unique(edges)) != n:
            raise DraftTreeError("two children of one node hold the same token")
        limit = np.where(below, self.log_probs[self.parents], 0.0)
        if not (self.log_probs <= limit).all():
            raise DraftTreeError("a path cannot be likelier than its beginning (log-probabilities must not rise)")

    @property
    def is_chain(self) -> bool:
        """Whether every node is the only child of the one before it."""
        return bool((self.parents == np.arange(-1, len(self) - 1)).all())

    def ancestor_mask(self) -> NDArray[np.bool_]:
        """bool, shape (n, n): entry [i, j] says that j is i itself or one of its ancestors."""
        n = len(self)
        mask = np.eye(n, dtype=np.bool_)
        for i in range(n):
            if self.parents[i] >= 0:
                mask[i] |= mask[self.parents[i]]
        return mask

    def children(self, node: int) -> dict[int, int]:
        """Token -> node index of the children of `node` (-1: the root)."""
        return {int(self.tokens[i]): int(i) for i in np.flatnonzero(self.parents == node)}

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """The nodes that hold these tokens one after the other, from below the root, as far as there are such."""
        nodes, node = [], -1
        for token in tokens:
            if (node := self.children(node).get(token, -1)) < 0:
                break
            nodes.append(node)
        return nodes

    def path(self, node: int) -> list[int]:
        """Node indices from below the root down to `node`."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = int(self.parents[node])
        return nodes[::-1]

    def select(self, keep: NDArray[np.bool_]) -> DraftTree:
        """The tree of the kept nodes; `keep` (bool, shape (n,)) must hold the parent of every node it holds."""
        new_index = np.cumsum(keep, dtype=np.int32) - 1
        parents = self.parents[keep]
        parents = np.where(parents >= 0, new_index[parents], -1).astype(np.int32)
        tree = DraftTree(self.tokens[keep], parents, self.depths[keep], self.log_probs[keep])
        tree.validate()
        return tree

    def limit(self, *, nodes: int | None = None, depth: int | None = None) -> DraftTree:
        """The likeliest `nodes` nodes of at most `depth` levels (None: no limit)."""
        count = len(self)
        if (depth is None or count <= depth) and (nodes is None or count <= nodes):
            return self  # no path of it is longer than it has nodes
        keep = np.ones(count, np.bool_) if depth is None else self.depths < depth
        if nodes is not None and int(keep.sum()) > max(nodes, 0):
            # Stable sort: a child never likelier than its parent and placed after it is never kept without it.
            order = np.argsort(-np.where(keep, self.log_probs, -np.inf), kind="stable")
            keep = np.zeros(len(self), np.bool_)
            keep[order[: max(nodes, 0)]] = True
        return self if keep.all() else self.select(keep)

    def within(self, vocabulary: int) -> DraftTree:
        """The part whose tokens are ids below `vocabulary`."""
        keep = self.tokens < vocabulary
        if keep.all():
            return self
        for node, parent in enumerate(self.parents.tolist()):
            if parent >= 0 and not keep[parent]:
                keep[node] = False
        return self.select(keep)

    def prune(self, paths: int) -> DraftTree:
        """The part with at most `paths` leaves; nodes that come first are preferred."""
        parents, keep = self.parents.tolist(), np.ones(len(self), np.bool_)
        extended: set[int] = set()
        leaves = 1
        for node, parent in enumerate(parents):
            if parent >= 0 and not keep[parent]:
                keep[node] = False
            elif parent not in extended:
                extended.add(parent)  # the first child goes on a path, each further one begins another
            elif leaves < paths:
                leaves += 1
            else:
                keep[node] = False
        return self if keep.all() else self.select(keep)

    def best_chain(self) -> DraftTree:
        """The path reached by always following the likeliest child: a draft for engines that verify chains only."""
        keep = np.zeros(len(self), np.bool_)
        node, children = -1, np.flatnonzero(self.parents == -1)
        while len(children):
            node = int(children[np.argmax(self.log_probs[children])])
            keep[node] = True
            children = np.flatnonzero(self.parents == node)
        return self if keep.all() else self.select(keep)


_EMPTY = DraftTree(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(eq=False, slots=True)
class Outcome:
    """What one verification step did to one sequence.

    Attributes:
        emitted: tokens committed by the step, in order. The last one is the target's own next token, or, where the
            sequence ended inside a path, a drafted one.
        tree: what was verified; empty after a plain step.
        top_ids: int32, shape (n + 1, k): the target's likeliest tokens after the root (row 0) and after each node
            (row i + 1). A row that begins with -1 was not scored; None where the engine knows emitted tokens only.
        top_probs: float32, same shape: their probabilities.
        path: the accepted nodes, from below the root down; by default those that `emitted` follows.
        finished: whether the sequence ended with it.
        slot: which sequence of a batch it is.
    """

    emitted: Sequence[int]
    tree: DraftTree = _EMPTY
    top_ids: NDArray[np.int32] | None = None
    top_probs: NDArray[np.float32] | None = None
    path: Sequence[int] = None  # type: ignore[assignment]
    finished: bool = False
    slot: int = 0

    def __post_init__(self) -> None:
        if self.path is None:
            self.path = self.tree.follow(self.emitted)

    @property
    def accepted(self) -> int:
        """How many of the emitted tokens had been drafted."""
        return len(self.path)

    @property
    def kept(self) -> Sequence[int]:
        """The nodes whose cache entries stay: the last emitted token is never in the cache, as in plain decoding."""
        return self.path[: len(self.emitted) - 1]

    def accepted_nodes(self) -> NDArray[np.bool_]:
        """bool, shape (n,): which nodes of the tree were accepted."""
        accepted = np.zeros(len(self.tree), np.bool_)
        accepted[list(self.path)] = True
        return accepted
