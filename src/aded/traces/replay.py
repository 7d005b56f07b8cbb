"""Replaying a trace: a drafter decodes it again through the loop, with the trace in the model's place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

__all__ = ["Result", "decode_sequence", "learn", "replay"]

MAX_DEPTH = 16


class _Scores:
    """What the trace says after the root and after each node that lies on its path; other nodes were never scored."""

    def __init__(self, sequence: TracedSequence, position: int, tree: DraftTree, top_k: int) -> None:
        self._sequence, self._position, self._tree, self._top_k = sequence, position, tree, top_k
        self._rows: list[int] = []

    def choose(self, row: int) -> int:
        self._rows.append(row)
        return int(self._sequence.output[self._position + len(self._rows) - 1])

    def top_k(self) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        all_ids, all_probs = self._sequence.top_ids, self._sequence.top_probs
        if not self._top_k or all_ids is None or all_probs is None:
            return None
        k = min(self._top_k, all_ids.shape[1])
        ids = np.full((len(self._tree) + 1, k), -1, np.int32)
        probs = np.zeros((len(self._tree) + 1, k), np.float32)
        seen = slice(self._position, self._position + len(self._rows))
        ids[self._rows], probs[self._rows] = all_ids[seen, :k], all_probs[seen, :k]
        return ids, probs


class _TraceEngine:
    def __init__(self, sequence: TracedSequence, most: int | None) -> None:
        self._sequence, self._end, self._position = sequence, len(sequence.output[:most]), 0

    def prefill(self, top_k: int) -> list[_Scores]:
        return [_Scores(self._sequence, 0, DraftTree.empty(), top_k)]

    def limits(self, slots: Sequence[int]) -> Limits:
        # A path of d drafted tokens emits d + 1: deeper levels could never be used.
        return Limits([self._end - self._position - 1])

    def verify(self, slots: Sequence[int], trees: Sequence[DraftTree], top_k: int) -> list[_Scores]:
        return [_Scores(self._sequence, self._position, tree, top_k) for tree in trees]

    def append(self, slot: int, token: int) -> bool:
        self._position += 1
        return self._position >= self._end

    def commit(self, outcomes: Outcomes) -> None: ...


@dataclass
class _Tally:
    """Sums over sequences."""

    sequences: int = 0
    stats: Stats = field(default_factory=Stats)
    reached: NDArray[np.int64] = field(default_factory=lambda: np.zeros(MAX_DEPTH, np.int64))
    drafting_steps: int = 0

    def add(self, other: Stats, accepted: list[int]) -> None:
        self.sequences += 1
        for name in ("tokens", "steps", "accepted", "drafted", "draft_s", "learn_s"):
            setattr(self.stats, name, getattr(self.stats, name) + getattr(other, name))
        self.drafting_steps += len(accepted)
        for depth in accepted:
            self.reached[: min(depth, MAX_DEPTH)] += 1


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
        for position, token in enumerate(sequence.output.tolist()):
            top = slice(position, position + 1)
            ids = None if sequence.top_ids is None else sequence.top_ids[top, : drafter.top_k]
            probs = None if sequence.top_probs is None else sequence.top_probs[top, : drafter.top_k]
            if not drafter.top_k:
                ids = probs = None
            session.observe(Outcome([token], DraftTree.empty(), ids, probs))


def _snapshot(drafter: Drafter) -> Drafter | None:
    """A copy to begin each sequence from; None if this drafter cannot be copied and must learn anew."""
    try:
        return copy.deepcopy(drafter)
    except TypeError:
        return None


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
    drafter = make()
    if warm is not None:
        learn(drafter, warm)
    snapshot = None if keep_state or warm is None else _snapshot(drafter)
    total, categories = _Tally(), dict[str, _Tally]()
    for sequence in trace.sequences[:1]:  # compiles what is not compiled yet, outside the times
        decode_sequence(sequence, make(), FixedBudget(max_draft_tokens), most=8)
    for done, sequence in enumerate(trace.sequences, 1):
        if not keep_state and done > 1:
            drafter = make() if snapshot is None else copy.deepcopy(snapshot)
            if snapshot is None and warm is not None:
                learn(drafter, warm)
        stats, outcomes = decode_sequence(sequence, drafter, FixedBudget(max_draft_tokens))
        accepted = [outcome.accepted for outcome in outcomes]
        for tally in (total, categories.setdefault(sequence.category, _Tally())):
            tally.add(stats, accepted)
        progress(done)
    size = getattr(drafter, "nbytes", None)
    sums = total.stats
    verified = max(total.drafting_steps, 1)
    reached = total.reached / verified
    return Result(
        drafter=name,
        max_draft_tokens=max_draft_tokens,
        mat=sums.mean_accepted_tokens,
        tokens=sums.tokens,
        steps=sums.steps,
        nodes_used=sums.drafted / verified,
        draft_ms=1e3 * sums.draft_s / max(sums.steps, 1),
        learn_ms=1e3 * sums.learn_s / max(sums.steps, 1),
        state_mb=None if size is None else size / 2**20,
        acceptance_by_depth=[float(share) for share in reached[: int((reached > 0).sum())]],
        by_category={
            category: {"mat": t.stats.mean_accepted_tokens, "sequences": t.sequences, "tokens": t.stats.tokens}
            for category, t in categories.items()
        },
    )
