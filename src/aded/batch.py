"""Drafts of several sequences, and what became of them, in a form that one rule can choose from and learn from.

Drafts are `Trees`, or `Chains` where an engine verifies no siblings; outcomes are `Outcomes` or `ChainOutcomes`.
Either pair shows its nodes as the same flat arrays. Chains of hundreds of sequences stay arrays throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from aded.kernels import chains
from aded.tree import DraftTree, Outcome

__all__ = ["ChainOutcomes", "Chains", "Drafts", "Limits", "Nodes", "Outcomes", "StepOutcomes", "Trees"]


@dataclass(slots=True)
class Limits:
    """What an engine can verify in its next step.

    Attributes:
        depth: for each sequence, most drafted tokens on a path; its length is that of the batch.
        nodes: most nodes of one draft.
        paths: most leaves of one draft; None: any number.
        trees: whether siblings can be verified; chains otherwise.
        vocabulary: tokens that the target can take in: ids below this; None: it is not known. A prompt may hold others,
            where pictures stand, and a drafter may have learned from a model that knows more.
        again: for each sequence, tokens that the step takes in again before its root. The step is then as wide as the
            sequences with the fewest need, and what others drafted beyond it is left out. None: there are none.
        restores: whether tokens that a step took in are taken in again where not all of them were accepted: what they
            left is a state, which is put back.
    """

    depth: Sequence[int] | NDArray[np.int64]
    nodes: int = 64
    paths: int | None = None
    trees: bool = True
    vocabulary: int | None = None
    again: Sequence[int] | None = None
    restores: bool = False


class Nodes(NamedTuple):
    """The nodes of several drafts, one draft after the other, parents before children.

    Attributes:
        draft: int64, (n,): which draft each belongs to.
        path: float64, (n,): the drafter's probability of the path down to it.
        depth: int64, (n,): edges between it and the first drafted node of its path.
        parent: int64, (n,): index of its parent among all nodes; -1 under a root.
    """

    draft: NDArray[np.int64]
    path: NDArray[np.float64]
    depth: NDArray[np.int64]
    parent: NDArray[np.int64]


class Drafts(Protocol):
    """A draft for each sequence of a batch."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[DraftTree]: ...

    @property
    def size(self) -> int:
        """Nodes of all drafts."""
        ...

    @property
    def widest(self) -> int:
        """Nodes of the largest draft."""
        ...

    def nodes(self) -> Nodes:
        """All nodes."""
        ...

    def keep(self, kept: NDArray[np.bool_]) -> Drafts:
        """The drafts of the kept nodes, bool (n,); a node is kept only with its parent."""
        ...


class StepOutcomes(Protocol):
    """What a step did to each sequence of a batch."""

    @property
    def emitted(self) -> NDArray[np.int64]:
        """Tokens each emitted, int64 (sequences,)."""
        ...

    def verified(self) -> tuple[Nodes, NDArray[np.bool_]]:
        """The nodes that were verified, and which of them were accepted. Sequences that ended are left out:
        an end inside a path says nothing of the nodes after it."""
        ...


def _flat(trees: Sequence[DraftTree]) -> Nodes:
    sizes = np.array([len(tree) for tree in trees], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(trees) else sizes
    draft = np.repeat(np.arange(len(trees)), sizes)
    if not len(draft):
        none = np.empty(0, np.int64)
        return Nodes(none, np.empty(0), none, none)
    parent = np.concatenate([tree.parents for tree in trees]).astype(np.int64)
    parent[parent >= 0] += starts[draft[parent >= 0]]
    path = np.exp(np.concatenate([tree.log_probs for tree in trees]).astype(np.float64))
    return Nodes(draft, path, np.concatenate([tree.depths for tree in trees]).astype(np.int64), parent)


class Trees(tuple[DraftTree, ...]):
    """Drafts as trees."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Nodes of all drafts."""
        return sum(map(len, self))

    @property
    def widest(self) -> int:
        """Nodes of the largest draft."""
        return max(map(len, self), default=0)

    def nodes(self) -> Nodes:
        """All nodes."""
        return _flat(self)

    def keep(self, kept: NDArray[np.bool_]) -> Trees:
        """The trees of the kept nodes."""
        if kept.all():
            return self
        parts = np.split(kept, np.cumsum([len(tree) for tree in self])[:-1])
        return Trees(tree.select(part) for tree, part in zip(self, parts, strict=True))


@dataclass(eq=False)
class Chains:
    """Drafts as chains.

    Attributes:
        ids: int32, (sequences, longest): tokens.
        paths: float32, (sequences, longest): probability of the path up to each; 0 past a chain's end.
    """

    ids: NDArray[np.int32]
    paths: NDArray[np.float32]

    @classmethod
    def of(cls, trees: Drafts, longest: int) -> Chains:
        """Trees that are chains, as arrays of at most `longest` tokens each."""
        ids, paths = np.zeros((len(trees), longest), np.int32), np.zeros((len(trees), longest), np.float32)
        for i, tree in enumerate(trees):
            n = min(len(tree), longest)
            ids[i, :n], paths[i, :n] = tree.tokens[:n], np.exp(tree.log_probs[:n])
        return cls(ids, paths)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[DraftTree]:
        for ids, path, length in zip(self.ids, self.paths, self.lengths.tolist(), strict=True):
            yield DraftTree.chain(ids[:length].tolist(), np.log(np.minimum(path[:length], 1.0)).tolist())

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each chain, int64 (sequences,)."""
        lengths: NDArray[np.int64] = (self.paths > 0).sum(1)
        return lengths

    @property
    def size(self) -> int:
        """Tokens of all chains."""
        return int(self.lengths.sum())

    @property
    def widest(self) -> int:
        """Tokens of the longest chain."""
        return int(self.lengths.max(initial=0))

    def nodes(self) -> Nodes:
        """All tokens."""
        return Nodes(*chains.flatten(self.paths))

    def within(self, vocabulary: int) -> Chains:
        """The chains up to their first id that is not below `vocabulary`."""
        outside = (self.ids >= vocabulary) & (self.paths > 0)
        if not outside.any():
            return self
        paths = np.where(np.logical_or.accumulate(outside, axis=1), np.float32(0.0), self.paths)
        return Chains(self.ids, paths)

    def keep(self, kept: NDArray[np.bool_]) -> Chains:
        """The chains of the kept tokens."""
        return self if kept.all() else Chains(self.ids, chains.keep(self.paths, kept))


class Outcomes(tuple[Outcome, ...]):
    """What a step did to sequences whose drafts were trees."""

    __slots__ = ()

    @property
    def emitted(self) -> NDArray[np.int64]:
        """Tokens each emitted."""
        return np.array([len(outcome.emitted) for outcome in self], np.int64)

    def verified(self) -> tuple[Nodes, NDArray[np.bool_]]:
        trees = [DraftTree.empty() if outcome.finished else outcome.tree for outcome in self]
        accepted = [outcome.accepted_nodes() for outcome in self if not outcome.finished]
        return _flat(trees), np.concatenate([np.empty(0, np.bool_), *accepted])


@dataclass(eq=False, slots=True)
class ChainOutcomes:
    """What a step did to sequences whose drafts were chains, as a server tells it.

    Attributes:
        recent: int32, (sequences, w): last tokens of each, latest last, -1 before the first.
        emitted: int64, (sequences,): how many of them it emitted in the step.
        paths: float32, (sequences, longest): path probabilities of the chains that were verified, 0 past their ends.
    """

    recent: NDArray[np.int32]
    emitted: NDArray[np.int64]
    paths: NDArray[np.float32]

    def verified(self) -> tuple[Nodes, NDArray[np.bool_]]:
        nodes = Nodes(*chains.flatten(self.paths))
        return nodes, nodes.depth < self.emitted[nodes.draft] - 1
