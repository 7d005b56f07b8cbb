"""All sequences of a batch followed together, where what chooses their tokens looks at all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aded.accept import Scores
from aded.batch import Outcomes
from aded.tree import DraftTree, Outcome

__all__ = ["Together", "accept_together"]

# The tokens that the target chooses at a place of all chains, 0 after their roots (None of sequences that had ended),
# and which sequences go on.
Together = Callable[[int], tuple[Sequence[int | None], Sequence[bool]]]


def accept_together(
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
