"""The loop: draft, verify, accept, learn. It knows no engine and no drafter by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aded.budget import Budget
from aded.drafters.base import Observation, Session
from aded.tree import DraftTree
from aded.verify import walk

__all__ = ["Engine", "Scores", "Stats", "Step", "decode"]


class Scores(Protocol):
    """The target's scores after the root (row 0) and after each node (row i + 1)."""

    def choose(self, row: int) -> int:
        """The token the target alone would emit there; asked in the order of emission."""
        ...

    def top_k(self, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        """Likeliest ids and probabilities, shape (rows, k); None where the engine has no scores to show."""
        ...


class Engine(Protocol):
    """A model behind the loop. `verify` takes the last emitted token as the root of the tree."""

    def prefill(self) -> Scores: ...

    def verify(self, root: int, tree: DraftTree) -> Scores: ...

    def commit(self, path: Sequence[int]) -> None:
        """Keep the cache entries of the root and of these nodes, drop the other nodes'."""
        ...


@dataclass(frozen=True)
class Step:
    """One turn of the loop: tokens emitted, and how many of them had been drafted."""

    tokens: list[int]
    drafted: int


@dataclass
class Stats:
    """What decoding one sequence took. Times are in seconds.

    Attributes:
        tokens: tokens emitted.
        steps: target forward passes, the prefill included.
        accepted: emitted tokens that had been drafted.
        drafted: nodes verified.
        draft_s, verify_s, learn_s: time spent in each part of the loop.
        time_to_first_token_s: from the start of the loop to the first token.
        total_s: from the start of the loop to its end.
        from_draft: for each emitted token, whether it had been drafted.
    """

    tokens: int = 0
    steps: int = 0
    accepted: int = 0
    drafted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    learn_s: float = 0.0
    time_to_first_token_s: float = 0.0
    total_s: float = 0.0
    from_draft: list[bool] = field(default_factory=list)

    @property
    def mean_accepted_tokens(self) -> float:
        """Tokens emitted for each target forward pass, the free one included (MAT)."""
        return self.tokens / self.steps if self.steps else 0.0


def decode(
    engine: Engine,
    session: Session,
    *,
    budget: Budget,
    max_tokens: int,
    top_k: int = 0,
    stop: Callable[[], bool] = lambda: False,
    stats: Stats | None = None,
) -> Iterator[Step]:
    """Decode until `stop()` holds after a token, or `max_tokens` are out.

    Args:
        engine: the target, its prompt given.
        session: the drafter's side of this sequence.
        budget: how much of a draft is worth verifying.
        max_tokens: most tokens emitted.
        top_k: likeliest tokens shown to the session at each scored position.
        stop: asked once after each token; a token inside an accepted path can end the sequence there.
        stats: filled in as decoding goes.
    """
    stats = Stats() if stats is None else stats
    started = clock = time.perf_counter()
    tree = DraftTree.empty()
    scores = engine.prefill()
    finished = max_tokens <= 0
    while not finished:
        path: list[int] = []
        emitted: list[int] = []
        for token, node in walk(tree, scores.choose):
            emitted.append(token)
            path.append(node)
            stats.from_draft.append(node >= 0)
            finished = stop() or stats.tokens + len(emitted) >= max_tokens
            if finished:
                break
        if stats.steps:
            # The last token is not in the cache: it is the next root, or the end, as in plain decoding.
            engine.commit(path[:-1])
        accepted = sum(node >= 0 for node in path)
        stats.tokens += len(emitted)
        stats.steps += 1
        stats.accepted += accepted
        stats.drafted += len(tree)
        stats.verify_s += (now := time.perf_counter()) - clock
        if stats.steps == 1:
            stats.time_to_first_token_s = now - started
        seen = scores.top_k(top_k) if top_k else None
        session.observe(Observation(emitted, tree, *(seen or (None, None))))
        if not finished:  # an end inside a path says nothing of the nodes after it
            budget.observe(tree, accepted)
        stats.learn_s += (clock := time.perf_counter()) - now
        stats.total_s = clock - started
        yield Step(emitted, accepted)
        if finished:
            return
        clock = time.perf_counter()
        # A path of d drafted tokens emits d + 1: deeper levels could never be used.
        draft = session.draft(budget.max_nodes).limit(depth=max_tokens - stats.tokens - 1)
        tree = budget.choose(draft)
        stats.draft_s += (now := time.perf_counter()) - clock
        clock = now
        scores = engine.verify(emitted[-1], tree)
