"""The choice: as many drafted tokens as make an emitted token cheapest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.batch import Drafts, Limits, StepOutcomes
from aded.budget.acceptance import Acceptance, Evidence
from aded.budget.backoff import Backoff
from aded.budget.cost import MAX_DRAFT_TOKENS, Pass, StepCost
from aded.kernels.jit import jit

_LEAD = 2  # tokens by which a sequence must be ahead of the slowest for its own to count half
_LATEST = 0.1  # share of the latest observation in a moving average
_LEAST_CAP = 8  # nodes that are worth drafting in any case: what pays can change from step to step
_CHAIN_PROBABILITY = 0.05  # a chain ends before its path is less likely, whatever it costs


class Budget:
    """Chooses how much of the drafts to verify.

    Attributes:
        in_backoff: whether drafts gained too little lately to be made at every step; known once drafts were chosen.
        threshold: path probability down to which a chain is worth drafting now.
        without: why the last step has no draft: "unknown cost", "not worth it", "backoff" or "nothing to draft"; ""
            where it has one.
        evidence: how often drafted tokens were accepted, where that is learned.
    """

    in_backoff: bool = False
    without: str = ""
    evidence: Evidence | None = None
    threshold: float = _CHAIN_PROBABILITY

    def start(self, slot: int) -> None:
        """A new sequence in a slot."""

    def begin(self, limits: Limits) -> None:
        """Told, before it is asked, what the next step can verify and what it takes in besides."""

    def draft_cap(self, slots: NDArray[np.int64]) -> int:
        """Most nodes worth drafting for each sequence in this step; 0: draft nothing. Asked once a step."""
        raise NotImplementedError

    def choose(self, slots: NDArray[np.int64], drafts: Drafts, emitted: NDArray[np.int64]) -> Drafts:
        """The part of the drafts worth verifying.

        Args:
            slots: the sequence of each draft, int64 (drafts,).
            emitted: tokens each has emitted so far, int64 (drafts,).
        """
        raise NotImplementedError

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> None:
        """Told what became of the drafts."""

    def tokens(self, sequences: int, drafts: Drafts) -> int:
        """Tokens of a pass over these drafts: sequences times the widest of them, in a rectangle."""
        return sequences * (1 + drafts.widest)

    def timed(self, step: Pass | None, drafting_s: float, learning_s: float) -> None:
        """Told what the last step took (None: not known), and drafting it, and learning from it."""


class FixedBudget(Budget):
    """The same number of nodes each step.

    Args:
        max_draft_tokens: most nodes of a draft.
        min_probability: nodes are verified while the path down to them has at least this probability.
    """

    def __init__(self, max_draft_tokens: int, *, min_probability: float = 0.0) -> None:
        self.max_draft_tokens, self.threshold = max_draft_tokens, min_probability

    def draft_cap(self, slots: NDArray[np.int64]) -> int:
        """The number it was made with."""
        return self.max_draft_tokens

    def choose(self, slots: NDArray[np.int64], drafts: Drafts, emitted: NDArray[np.int64]) -> Drafts:
        """All of what is likely enough."""
        return drafts.keep(drafts.nodes().path >= self.threshold) if self.threshold else drafts


class AdaptiveBudget(Budget):
    """The drafts that maximise expected tokens a second.

    A node is accepted exactly if its whole path is, so a step that verifies nodes with acceptance probabilities p1,
    p2, ... emits on average 1 + p1 + p2 + ... tokens for a sequence. p is what the drafter says, corrected (see
    `Acceptance`). The step takes cost(tokens) seconds, and drafting and learning take d, so the choice minimises
    (cost + d) / tokens; no node at all is a plain step. On a convex curve, as p only falls, that is to add a node
    while its gain over its marginal cost is above the rate reached so far; every number is looked at, since measured
    curves dip.

    Where an engine verifies a *rectangle*, sequences times the nodes of the widest tree, a sequence with fewer nodes
    saves nothing. So all get the same number, each its own likeliest. A batch is done when its slowest sequence is: a
    token of one that is ahead counts half as much for every two tokens of its lead, or one that copies would slow the
    others down to no use. Where an engine lays all tokens end to end (*ragged*), the likeliest nodes are taken
    whosever they are.

    The drafting is done when the choice is made, and enters another comparison: where for some steps the rate with
    drafts was not above that of a plain step without drafting, drafts are made less often until they pay again (see
    `Backoff`).

    Weighing a node against the long-run rate instead (Dinkelbach's rule for a ratio of sums) would be optimal if
    probabilities were exact; replayed on recorded traces it was no better (`benchmarks/regret.py` compares with fixed
    budgets).

    Args:
        cost: what a step costs.
        slots: as many sequences as there can be at once.
        ragged: whether tokens of all sequences lie end to end in a pass; else it is a rectangle.
        min_probability: a chain ends before its path is less likely, whatever it costs.
        evidence: of acceptance over earlier sequences.
    """

    def __init__(
        self,
        cost: StepCost,
        *,
        slots: int = 1,
        ragged: bool = False,
        min_probability: float = _CHAIN_PROBABILITY,
        evidence: Evidence | None = None,
    ) -> None:
        self._cost, self._ragged = cost, ragged
        self._acceptance, self._backoff = Acceptance(slots, evidence), Backoff()
        self.evidence = self._acceptance.evidence
        self._cap = MAX_DRAFT_TOKENS  # as many as pay now, and as many again
        self.threshold = self._min_probability = min_probability
        self._drafting_s = self._learning_s = 0.0  # moving averages; 0 until known
        self._drafted = False  # whether the last step could have had a draft
        self._limits: Limits | None = None  # of the next step

    @property
    def in_backoff(self) -> bool:  # type: ignore[override]
        return self._backoff.active

    def start(self, slot: int) -> None:
        """A new sequence in a slot."""
        self._acceptance.start(slot)

    def begin(self, limits: Limits) -> None:
        self._limits = limits

    def draft_cap(self, slots: NDArray[np.int64]) -> int:
        skipped = self._backoff.skip()
        if skipped:
            self._acceptance.relax(slots)
        self._drafted = not skipped and self._cost.known(len(slots))
        self.without = "" if self._drafted else "backoff" if skipped else "unknown cost"
        return self._cap if self._drafted else 0

    def choose(self, slots: NDArray[np.int64], drafts: Drafts, emitted: NDArray[np.int64]) -> Drafts:
        if not drafts.size:
            self.without = "nothing to draft"
            if not self._ragged:
                return drafts
        nodes, count = drafts.nodes(), len(slots)
        gains = self._acceptance.correct(slots, nodes)
        again: NDArray[np.float64] | float = 0.0
        if self._ragged:
            expected, rank = _ragged(gains, count)
        else:
            expected, rank, table = _rectangle(nodes.draft, gains, emitted)
            again = _taken_in_again(table, self._limits)
        bare = self._cost.per_token(expected, count, 1 if self._ragged else count, again)
        rates = bare + (self._drafting_s + self._learning_s) / expected
        best = int(np.argmin(rates))
        if rates[best] > (1 - self._cost.margin) * rates[0]:
            best = 0
        pays = best > 0 and bool(rates[best] < bare[0] + self._learning_s / expected[0])
        felt = self._drafting_s + self._learning_s > self._cost.felt * bare[0] * expected[0]
        self._backoff.record(pays, felt=felt)
        self._cap = min(max(2 * best, 3 * self._cap // 4, _LEAST_CAP), MAX_DRAFT_TOKENS)
        kept = rank < best
        self._set_threshold(nodes.path, kept)
        if not best:
            self.without = self.without or "not worth it"
            self._acceptance.relax(slots)
        return drafts.keep(kept)

    def _set_threshold(self, paths: NDArray[np.float64], kept: NDArray[np.bool_]) -> None:
        """Draft further down while all that was drafted is verified, less far while much of it is not."""
        least = _least_kept(paths, kept)
        wanted = 0.8 * self.threshold if least < 0 else self.threshold + 0.2 * (0.7 * least - self.threshold)
        self.threshold = min(max(wanted, self._min_probability), 0.8)

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> None:
        self._acceptance.observe(slots, outcomes)

    def tokens(self, sequences: int, drafts: Drafts) -> int:
        """See `Budget`; laid end to end there is nothing to fill up."""
        return sequences + drafts.size if self._ragged else super().tokens(sequences, drafts)

    def timed(self, step: Pass | None, drafting_s: float, learning_s: float) -> None:
        if step is not None:
            self._cost.observe(step)
            # The first times can include compiling.
            drafting_s, learning_s = min(drafting_s, step.seconds), min(learning_s, step.seconds)
        self._learning_s = _average(self._learning_s, learning_s)
        if self._drafted:  # a step without says nothing about what a draft costs
            self._drafting_s = _average(self._drafting_s, drafting_s)


def _average(before: float, latest: float) -> float:
    return before + _LATEST * (latest - before) if before else latest


@jit
def _least_kept(paths, kept):
    """The least path probability that is kept, or the greatest of all where none is; -1 where all are."""
    least, greatest, count = 2.0, 0.0, 0
    for i in range(len(paths)):
        greatest = max(greatest, paths[i])
        if kept[i]:
            least = min(least, paths[i])
            count += 1
    return -1.0 if count == len(paths) else least if count else greatest


@jit
def _ragged(gains, count):
    """Tokens steps with 0, 1, ... nodes emit, float64 (n + 1,); each node's place in that order, int64 (n,)."""
    # Stable: where gains are equal, a parent comes before its child.
    order, rank = np.argsort(-gains, kind="mergesort"), np.empty(len(gains), np.int64)
    expected = np.full(len(gains) + 1, np.float64(count))
    for i in range(len(order)):
        rank[order[i]] = i
        expected[i + 1] = expected[i] + gains[order[i]]
    return expected, rank


def _rectangle(
    draft: NDArray[np.int64], gains: NDArray[np.float64], emitted: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64]]:
    """Weighted tokens of steps with 0, 1, ... nodes of each sequence, each node's place within its sequence, and by
    sequence and place the gains, after a first that is 0."""
    order = np.lexsort((-gains, draft))  # stable: where gains are equal, a parent comes before its child
    sizes = np.bincount(draft, minlength=len(emitted))
    position = np.arange(len(draft)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.empty(len(draft), np.int64)
    rank[order] = position
    table = np.zeros((len(emitted), int(sizes.max(initial=0)) + 1))
    table[draft[order], position + 1] = gains[order]
    weights = 0.5 ** ((emitted - emitted.min()) / _LEAD)
    return weights @ (1 + np.cumsum(table, axis=1)), rank, table


def _taken_in_again(table: NDArray[np.float64], limits: Limits | None) -> NDArray[np.float64] | float:
    """Tokens that each sequence takes in besides, in steps with 0, 1, ... drafted of each, float64 (n,).

    Those before its root; and, where a state is put back unless all of a step was accepted, in the next step all that
    was.
    """
    if limits is None or limits.again is None:
        return 0.0
    least = min(limits.again)
    if not limits.restores:
        return float(least)
    whole = np.prod(table, axis=0)
    whole[0] = 1.0
    again: NDArray[np.float64] = least + (1 - whole) * (least + 1 + np.cumsum(table, axis=1).mean(axis=0))
    return again
