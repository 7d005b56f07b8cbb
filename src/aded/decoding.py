"""The loop: propose, verify, accept, commit, observe. It knows no engine and no drafter by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Protocol

from aded.accept import Scores, accept
from aded.batch import Limits, Outcomes
from aded.speculation import Speculator
from aded.together import Together, accept_together
from aded.tree import DraftTree

__all__ = ["Engine", "decode"]


class Engine(Protocol):
    """A model behind the loop, decoding one sequence or a batch of them, each in a slot.

    `slots` ascend; a sequence once left out has ended and does not come back.
    """

    def prefill(self, top_k: int) -> Sequence[Scores]:
        """Run the prompts: the scores after each of them."""
        ...

    def limits(self, slots: Sequence[int]) -> Limits:
        """What the next step can verify of these sequences."""
        ...

    def verify(self, slots: Sequence[int], trees: Sequence[DraftTree], top_k: int) -> Sequence[Scores | None]:
        """One forward pass over each sequence's last token, the root of its tree, and every node.

        None in place of scores: this sequence waits for others, see `Limits.again`."""
        ...

    def append(self, slot: int, token: int) -> bool:
        """Make `token` the last of a sequence; says whether the sequence ends with it."""
        ...

    def commit(self, outcomes: Outcomes) -> None:
        """Of each sequence just verified keep the cache entries of the root and the `kept` nodes, drop the others."""
        ...


def decode(engine: Engine, speculator: Speculator, together: Together | None = None) -> Iterator[Outcomes]:
    """Decode every sequence of the speculator to its end, one forward pass for each item yielded.

    Args:
        engine: the target, its prompts given.
        speculator: started with the same prompts.
        together: chooses for all sequences at once, where what chooses looks at all of them.
    """
    follow: Callable[..., Outcomes] = partial(accept, append=engine.append)
    if together is not None:
        follow = partial(accept_together, together=together)
    with closing(speculator):  # a caller that has enough may leave in between
        slots = speculator.slots
        trees: Sequence[DraftTree] = [DraftTree.empty()] * len(slots)
        outcomes = follow(slots, trees, engine.prefill(speculator.top_k))
        speculator.observe(slots, outcomes)
        yield outcomes
        while slots := [outcome.slot for outcome in outcomes if not outcome.finished]:
            trees = list(speculator.propose(slots, engine.limits(slots)))
            scores = engine.verify(slots, trees, speculator.top_k)
            outcomes = follow(slots, trees, scores)
            engine.commit(outcomes)
            speculator.observe(slots, outcomes)
            yield outcomes
