"""Replaying a trace: a drafter decodes it again through the loop, with the trace in the model's place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.batch import Limits, Outcomes
from aded.budget import Budget, FixedBudget
from aded.decoding import decode
from aded.drafters.base import Drafter
from aded.speculation import Speculator
from aded.stats import Stats
from aded.traces.trace import Trace, TracedSequence
from aded.tree import DraftTree, Outcome

MAX_DEPTH = 16


class _TraceEngine:
    """The trace in the model's place, and what it says of a tree: nodes off the trace's path were never scored."""

    def __init__(self, sequence: TracedSequence, most: int | None) -> None:
        self._sequence, self._end, self._position = sequence, len(sequence.output[:most]), 0

    def prefill(self, top_k: int) -> list[_TraceEngine]:
        return self.verify([0], [DraftTree.empty()], top_k)

    def limits(self, slots: Sequence[int]) -> Limits:
        # A path of d drafted tokens emits d + 1: deeper levels could never be used.
        return Limits([self._end - self._position - 1])

    def verify(self, slots: Sequence[int], trees: Sequence[DraftTree], top_k: int) -> list[_TraceEngine]:
        self._start, self._nodes, self._top_k = self._position, len(trees[0]) + 1, top_k
        self._rows: list[int] = []
        return [self]

    def append(self, slot: int, token: int) -> bool:
        self._position += 1
        return self._position >= self._end

    def commit(self, outcomes: Outcomes) -> None: ...

    def choose(self, row: int) -> int:
        self._rows.append(row)
        return int(self._sequence.output[self._start + len(self._rows) - 1])

    def top_k(self) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        all_ids, all_probs = self._sequence.top_ids, self._sequence.top_probs
        if not self._top_k or all_ids is None or all_probs is None:
            return None
        k = min(self._top_k, all_ids.shape[1])
        ids, probs = np.full((self._nodes, k), -1, np.int32), np.zeros((self._nodes, k), np.float32)
        seen = slice(self._start, self._start + len(self._rows))
        ids[self._rows], probs[self._rows] = all_ids[seen, :k], all_probs[seen, :k]
        return ids, probs


@dataclass(frozen=True)
class Result:
    """How one drafter did with one budget.

    Attributes:
        mat: tokens for each target forward pass, prefills included, over the whole trace.
        nodes_used: mean nodes of a verified draft.
        draft_ms, learn_ms: mean time a step, in milliseconds.
        state_mb: MiB of learned state, None where the drafter does not tell.
        acceptance_by_depth: share of verification steps that accept at least 1, 2, ... drafted tokens.
        by_category: mat, sequences and tokens of each category.
    """

    drafter: str
    max_draft_tokens: int
    mat: float
    tokens: int
    steps: int
    nodes_used: float
    draft_ms: float
    learn_ms: float
    state_mb: float | None
    acceptance_by_depth: list[float]
    by_category: dict[str, dict[str, Any]]


def learn(drafter: Drafter, trace: Trace) -> None:
    """Show a drafter all of a trace, as plain decoding would; one that must `build` a corpus is given the texts."""
    if (build := getattr(drafter, "build", None)) is not None:
        build([[*sequence.prompt.tolist(), *sequence.output.tolist()] for sequence in trace.sequences])
        return
    for sequence in trace.sequences:
        session = drafter.start(sequence.prompt.tolist())
        ids, probs = (sequence.top_ids, sequence.top_probs) if drafter.top_k else (None, None)
        for position, token in enumerate(sequence.output.tolist()):
            at = np.s_[position : position + 1, : drafter.top_k]
            tops = None if ids is None else ids[at], None if probs is None else probs[at]
            session.observe(Outcome([token], DraftTree.empty(), *tops))


def decode_sequence(
    sequence: TracedSequence, drafter: Drafter, budget: Budget, most: int | None = None
) -> tuple[Stats, list[Outcome]]:
    """What one answer (its first `most` tokens) cost, and the outcome of each verification step."""
    stats = Stats()
    speculator = Speculator(drafter, budget, stats=stats)
    speculator.start(0, sequence.prompt.tolist())
    outcomes = [outcome for step in decode(_TraceEngine(sequence, most), speculator) for outcome in step]
    return stats, outcomes[1:]


def replay(
    trace: Trace,
    name: str,
    make: Callable[[], Drafter],
    max_draft_tokens: int,
    *,
    warm: Trace | None = None,
    keep_state: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Run a drafter over a trace with a fixed budget.

    Args:
        name: what to call the result.
        make: makes the drafter.
        max_draft_tokens: most nodes of a draft.
        warm: learned before the first sequence.
        keep_state: go on learning from sequence to sequence; otherwise each begins from the state before the first.
        progress: told how many sequences are done.

    Nodes off the trace's path have no recorded scores and teach nothing here; live, they do.
    """

    def begin() -> Drafter:
        drafter = make()
        if warm is not None:
            learn(drafter, warm)
        return drafter

    drafter, again = begin(), begin
    if warm is not None and not keep_state:
        with suppress(TypeError):  # a drafter that cannot be copied learns it anew
            again = partial(copy.deepcopy, copy.deepcopy(drafter))
    for sequence in trace.sequences[:1]:  # compiles what is not compiled yet, outside the times
        decode_sequence(sequence, make(), FixedBudget(max_draft_tokens), most=8)
    accepted: list[int] = []
    categories: dict[str, list[Stats]] = {}
    for done, sequence in enumerate(trace.sequences, 1):
        if not keep_state and done > 1:
            drafter = again()
        stats, outcomes = decode_sequence(sequence, drafter, FixedBudget(max_draft_tokens))
        accepted += [outcome.accepted for outcome in outcomes]
        categories.setdefault(sequence.category, []).append(stats)
        progress(done)
    size = getattr(drafter, "nbytes", None)
    sums = {category: _sum(parts) for category, parts in categories.items()}
    total = _sum(list(sums.values()))
    return Result(
        drafter=name,
        max_draft_tokens=max_draft_tokens,
        mat=total.mean_accepted_tokens,
        tokens=total.tokens,
        steps=total.steps,
        nodes_used=total.drafted / max(len(accepted), 1),
        draft_ms=1e3 * total.draft_s / max(total.steps, 1),
        learn_ms=1e3 * total.learn_s / max(total.steps, 1),
        state_mb=None if size is None else size / 2**20,
        acceptance_by_depth=acceptance_by_depth(accepted),
        by_category={
            category: {"mat": part.mean_accepted_tokens, "sequences": len(categories[category]), "tokens": part.tokens}
            for category, part in sums.items()
        },
    )


def _sum(parts: Sequence[Stats]) -> Stats:
    names = ("tokens", "steps", "drafted", "draft_s", "learn_s")
    return Stats(**{name: sum(getattr(part, name) for part in parts) for name in names})


def acceptance_by_depth(accepted: Sequence[int]) -> list[float]:
    """Share of verification steps that accept at least 1, 2, ... drafted tokens."""
    deepest = min(max(accepted, default=0), MAX_DEPTH)
    return [sum(count >= depth for count in accepted) / len(accepted) for depth in range(1, deepest + 1)]
