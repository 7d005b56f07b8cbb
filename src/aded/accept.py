"""The walk over a scored tree: the same for greedy decoding and for sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aded.batch import Outcomes
from aded.tree import DraftTree, Outcome

__all__ = ["Scores", "Walk", "accept", "accept_row"]


class Scores(Protocol):
    """The target's scores after the root of a draft (row 0) and after each node (row i + 1)."""

    def choose(self, row: int) -> int:
        """The token the target alone would emit there. It is asked in the order of emission and changes nothing but the
        random generator that a sample draws from."""
        ...

    def top_k(self) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        """The likeliest ids and their probabilities, shape (rows, k); None if the step was not asked for any, or the
        engine has no scores to show."""
        ...


def accept(
    slots: Sequence[int],
    trees: Sequence[DraftTree],
    scores: Sequence[Scores | None],
    append: Callable[[int, int], bool],
) -> Outcomes:
    """Follow the target through each sequence's tree; `append(slot, token)` says whether a sequence ends.

    A sequence without scores waited for others in this step, and emits nothing.
    """
    rows = zip(slots, trees, scores, strict=True)
    return Outcomes(
        Outcome([], slot=slot) if scored is None else accept_row(tree, scored, partial(append, slot), slot)
        for slot, tree, scored in rows
    )


def accept_row(tree: DraftTree, scores: Scores, append: Callable[[int], bool], slot: int = 0) -> Outcome:
    """Follow the target's own choices through one tree, see `Walk`."""
    walk = Walk(tree, scores, append, slot)
    for _ in walk:
        pass
    return walk.outcome()


class Walk:
    """The target's own choices through one tree, each made when it is asked for.

    The target chooses exactly once for each token emitted and in order, so a random choice consumes its generator
    just as plain decoding would: speculation then cannot change a sample. The walk ends with the first token no child
    holds, or where the sequence ends.

    Args:
        tree: what was verified.
        scores: of its root and nodes.
        append: takes each token into the sequence; says whether the sequence ends with it.
        slot: which sequence it is.
    """

    def __init__(self, tree: DraftTree, scores: Scores, append: Callable[[int], bool], slot: int = 0) -> None:
        self._tree, self._scores, self._append, self._slot = tree, scores, append, slot
        self._emitted: list[int] = []
        self._path: list[int] = []
        self._finished = self._whole = False

    def __iter__(self) -> Iterator[int]:
        parents, tokens = self._tree.parents.tolist(), self._tree.tokens.tolist()
        edges = {edge: node for node, edge in enumerate(zip(parents, tokens, strict=True))}
        node = -1
        while not self._whole:
            token = self._scores.choose(node + 1)
            self._emitted.append(token)
            self._finished = self._append(token)
            if (node := edges.get((node, token), -1)) >= 0:
                self._path.append(node)
            self._whole = self._finished or node < 0
            yield token

    def outcome(self) -> Outcome:
        """What became of the tree so far; a walk that was left before its end is the sequence's last."""
        top_ids, top_probs = self._scores.top_k() or (None, None)
        finished = self._finished or not self._whole
        return Outcome(self._emitted, self._tree, top_ids, top_probs, self._path, finished, self._slot)
