"""The walk over a scored tree: the same for greedy decoding and for sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aded.batch import Outcomes
from aded.tree import DraftTree, Outcome

__all__ = ["Scores", "Together", "accept", "accept_row"]

# The tokens that the target chooses at a place of all chains, 0 after their roots (None of sequences that had ended),
# and which sequences go on.
Together = Callable[[int], tuple[Sequence[int | None], Sequence[bool]]]


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
    together: Together | None = None,
) -> Outcomes:
    """Follow the target through each sequence's tree; `append(slot, token)` says whether a sequence ends.

    A sequence without scores waited for others in this step, and emits nothing. `together` chooses for all at once.
    """
    if together is not None:
        return _accept_together(slots, trees, scores, together)
    rows = zip(slots, trees, scores, strict=True)
    return Outcomes(
        Outcome([], slot=slot) if scored is None else accept_row(tree, scored, partial(append, slot), slot)
        for slot, tree, scored in rows
    )


def _accept_together(
    slots: Sequence[int], trees: Sequence[DraftTree], scores: Sequence[Scores | None], together: Together
) -> Outcomes:
    """Follow the target through chains as far as it follows all of them. Nodes further down were not judged."""
    emitted: list[list[int]] = [[] for _ in slots]
    place = 0
    going: Sequence[bool] = [True]
    while any(going):
        tokens, going = together(place)
        for said, token in zip(emitted, tokens, strict=True):
            if token is not None:
                said.append(token)
        held = zip(trees, tokens, going, strict=True)
        if any(on and (place >= len(tree) or int(tree.tokens[place]) != token) for tree, token, on in held):
            break
        place += 1
    outcomes = []
    for slot, tree, scored, said in zip(slots, trees, scores, emitted, strict=True):
        top_ids, top_probs = (scored.top_k() if scored is not None and said else None) or (None, None)
        cut = tree.limit(nodes=len(said))
        if top_ids is not None and top_probs is not None:
            top_ids, top_probs = top_ids[: len(cut) + 1], top_probs[: len(cut) + 1]
        outcomes.append(Outcome(said, cut, top_ids, top_probs, finished=not any(going), slot=slot))
    return Outcomes(outcomes)


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
