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
    """A model behind the loop, decoding one sequence or a batch of them.

    `verify` takes each row's last emitted token as the root of its tree. `rows` ascend; a row once left out is finished
    and does not come back.
    """

    def prefill(self) -> Sequence[Scores]: ...

    def verify(self, rows: Sequence[int], roots: Sequence[int], trees: Sequence[DraftTree]) -> Sequence[Scores]: ...

    def commit(self, paths: Sequence[Sequence[int]]) -> None:
        """Of each row just verified keep the cache entries of the root and of these nodes, drop the other nodes'."""
        ...


@dataclass(frozen=True)
class Step:
    """One row's part in a turn of the loop: tokens emitted, and how many of them had been drafted."""

    tokens: list[int]
    drafted: int
    row: int = 0


@dataclass
class Stats:
    """What decoding took. Times are in seconds.

    Attributes:
        tokens: tokens emitted, by all rows of a batch.
        steps: target forward passes, the prefill included; a pass counts once for each row that took part.
        passes: target forward passes, each counted once.
        accepted: emitted tokens that had been drafted.
        drafted: nodes verified.
        draft_s, verify_s, learn_s: time spent in each part of the loop.
        time_to_first_token_s: from the start of the (last) loop to the first token.
        total_s: from the start of the loop to its end.
        from_draft: for each emitted token, whether it had been drafted.
    """

    tokens: int = 0
    steps: int = 0
    passes: int = 0
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
        """Tokens a sequence emits in a target forward pass, the free one included (MAT)."""
        return self.tokens / self.steps if self.steps else 0.0


@dataclass
class _Row:
    """One sequence in the loop: what was drafted for it, and what became of that in the current turn."""

    number: int
    session: Session
    tree: DraftTree = field(default_factory=DraftTree.empty)
    tokens: int = 0
    emitted: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    unlearned: list[int] = field(default_factory=list)  # emitted while the budget rested
    finished: bool = False

    @property
    def accepted(self) -> int:
        return sum(node >= 0 for node in self.path)

    def follow(self, scores: Scores, max_tokens: int, stop: Callable[[int], bool]) -> None:
        """Emit what the target chooses along the tree; a token inside an accepted path can end the sequence there."""
        self.emitted, self.path = [], []
        for token, node in walk(self.tree, scores.choose):
            self.emitted.append(token)
            self.path.append(node)
            self.tokens += 1
            self.finished = stop(self.number) or self.tokens >= max_tokens
            if self.finished:
                return

    def learn(self, scores: Scores, top_k: int) -> None:
        """Show the session what the target said."""
        seen = scores.top_k(top_k) if top_k else None
        self.catch_up()
        self.session.observe(Observation(self.emitted, self.tree, *(seen or (None, None))))

    def catch_up(self) -> None:
        """Show it the tokens of steps that were passed over."""
        if self.unlearned:
            self.session.observe(Observation(self.unlearned))
            self.unlearned = []


def decode(
    engine: Engine,
    sessions: Sequence[Session],
    *,
    budget: Budget,
    max_tokens: int,
    top_k: int = 0,
    stop: Callable[[int], bool] = lambda row: False,
    stats: Stats | None = None,
) -> Iterator[Step]:
    """Decode every row until `stop(row)` holds after a token of it, or `max_tokens` of it are out.

    Args:
        engine: the target, its prompts given.
        sessions: the drafter's side of each row.
        budget: how much of the drafts is worth verifying.
        max_tokens: most tokens emitted for a row.
        top_k: likeliest tokens shown to the sessions at each scored position. While the budget rests they see emitted
            tokens only, and those of all such steps at once: where drafts gain nothing, learning must cost nothing.
        stop: asked once after each token.
        stats: filled in as decoding goes; what an earlier call counted in it is added to.
    """
    stats = Stats() if stats is None else stats
    rows = [_Row(number, session) for number, session in enumerate(sessions)] if max_tokens > 0 else []
    everyone = list(rows)
    started = clock = time.perf_counter()
    before = stats.total_s
    drafting, prompt = 0.0, True
    try:
        scores = engine.prefill()
        while rows:
            for row, scored in zip(rows, scores, strict=True):
                row.follow(scored, max_tokens, stop)
            if not prompt:
                # The last token is not in the cache: it is the next root, or the end, as in plain decoding.
                engine.commit([row.path[:-1] for row in rows])
            verifying = (now := time.perf_counter()) - clock
            for row, scored in zip(rows, scores, strict=True):
                if budget.resting and not len(row.tree) and not row.finished:
                    row.unlearned += row.emitted
                else:
                    row.learn(scored, top_k)
                if not row.finished:  # an end inside a path says nothing of the nodes after it
                    budget.observe(row.tree, row.accepted, row.number)
            learning = (clock := time.perf_counter()) - now
            if not prompt:
                budget.timed([row.tree for row in rows], verifying, drafting, learning)
            else:
                stats.time_to_first_token_s = now - started
            prompt = False
            stats.passes += 1
            stats.verify_s += verifying
            stats.learn_s += learning
            stats.total_s = before + clock - started
            for row in rows:
                stats.steps += 1
                stats.tokens += len(row.emitted)
                stats.accepted += row.accepted
                stats.drafted += len(row.tree)
                stats.from_draft += [node >= 0 for node in row.path]
            yield from [Step(row.emitted, row.accepted, row.number) for row in rows]
            rows = [row for row in rows if not row.finished]
            if not rows:
                return
            clock = time.perf_counter()
            most = budget.max_nodes
            drafts = [
                # A path of d drafted tokens emits d + 1: deeper levels could never be used.
                row.session.draft(most).limit(depth=max_tokens - row.tokens - 1) if most else DraftTree.empty()
                for row in rows
            ]
            for row, tree in zip(rows, budget.choose(drafts, {row.number: row.tokens for row in rows}), strict=True):
                row.tree = tree
            drafting = (now := time.perf_counter()) - clock
            stats.draft_s += drafting
            clock = now
            scores = engine.verify(
                [row.number for row in rows], [row.emitted[-1] for row in rows], [row.tree for row in rows]
            )
    finally:  # a caller that has enough may leave in between
        for row in everyone:
            row.catch_up()
