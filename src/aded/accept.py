"""The walk over a scored tree: the same for greedy decoding and for sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aded.batch import Outcomes
from aded.tree import DraftTree, Outcome

__all__ = ["Scores", "accept", "accept_row"]


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
    """Follow the target's own choices through one tree.

    The target chooses exactly once for each token emitted and in order, so a random choice consumes its generator
    just as plain decoding would: speculation then cannot change a sample. The walk ends with the first token no child
    holds, or where the sequence ends.

    Args:
        tree: what was verified.
        scores: of its root and nodes.
        append: takes each token into the sequence; says whether the sequence ends with it.
        slot: which sequence it is.
    """
    edges = {edge: node for node, edge in enumerate(zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True))}
    emitted: list[int] = []
    path: list[int] = []
    node, finished = -1, False
    while not finished:
        token = scores.choose(node + 1)
        emitted.append(token)
        finished = append(token)
        node = edges.get((node, token), -1)
        if node < 0:
            break
        path.append(node)
    top_ids, top_probs = scores.top_k() or (None, None)
    return Outcome(emitted, tree, top_ids, top_probs, path, finished, slot)
