"""The loop for one sequence whose tokens are asked for one by one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial

from aded.accept import Scores, Walk
from aded.batch import Outcomes
from aded.decoding import Engine
from aded.speculation import Speculator
from aded.tree import DraftTree

__all__ = ["decode_one"]


def decode_one(engine: Engine, speculator: Speculator) -> Generator[int, None, None]:
    """As `decode`, for one sequence: a token for each item yielded, which is chosen when it is asked for.

    So what chooses sees what a caller did with the token before, as it does where tokens are decoded one by one. A
    caller that leaves in between leaves the cache as far as it got.
    """
    (slot,) = speculator.slots
    tree, proposed = DraftTree.empty(), False
    scored: Sequence[Scores | None] = engine.prefill(speculator.top_k)
    with closing(speculator):
        while True:
            (scores,) = scored
            assert scores is not None  # there are no others to wait for
            walk = Walk(tree, scores, partial(engine.append, slot), slot)
            try:
                for token in walk:
                    with speculator.timer.paused():
                        yield token
            finally:
                outcomes = Outcomes([walk.outcome()])
                if proposed:
                    engine.commit(outcomes)
                speculator.observe([slot], outcomes)
            if outcomes[0].finished:
                return
            (tree,) = speculator.propose([slot], engine.limits([slot]))
            scored = engine.verify([slot], [tree], speculator.top_k)
            proposed = True
