"""The speculator: what drafts, chooses and learns for a set of sequences, the same object for every engine.

Engines that pull run the loop in `decoding.py`. Engines that push (a server, a library that asks for a draft) call
`observe`, then `propose`, by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aded.batch import Chains, Drafts, Limits, Outcomes, StepOutcomes, Trees
from aded.budget import Budget, Pass
from aded.drafters.base import Drafter, Prompt, open_slots
from aded.stats import Stats, Timer
from aded.tree import DraftTree, Outcome

__all__ = ["Speculator"]


class Speculator:
    """A drafter and a budget for up to `count` sequences, each in a slot; one sequence is a batch of one.

    Args:
        drafter: who drafts; what it learned is shared by all its speculators.
        budget: how much of the drafts is verified.
        count: most sequences at once.
        timer: splits steps into their parts.
        stats: counts what steps did, where outcomes are `Outcomes`.
        async_learning: learn beside the next pass where more than so many sequences took part: drafts then know one
            step less, and the pass does not wait. None: never.

    Attributes:
        top_k: likeliest tokens of each scored position that the next outcomes should bring; 0 for none.
        slots: all slots.
    """

    def __init__(
        self,
        drafter: Drafter,
        budget: Budget,
        *,
        count: int = 1,
        timer: Timer | None = None,
        stats: Stats | None = None,
        async_learning: int | None = None,
    ) -> None:
        self.slots: Sequence[int] = list(range(count))
        self.top_k = self._top_k = drafter.top_k
        self._drafts, self.budget = open_slots(drafter, count), budget
        self.timer, self._stats = timer or Timer(), Stats() if stats is None else stats
        self._emitted = np.zeros(count, np.int64)  # by each sequence so far
        self._pending: dict[int, list[int]] = {}  # emitted in backoff and not yet learned, by slot
        self._proposed: Drafts | None = None
        self._again = 0  # tokens that each sequence took in again before its root
        self._async_above = async_learning
        self._threads = None if async_learning is None else ThreadPoolExecutor(1, "aded-learn")
        self._learning: Future[None] | None = None
        self._later: list[Callable[[], None]] = []

    def start(self, slot: int, prompt: Prompt, drafter: Drafter | None = None, *, later: bool = False) -> None:
        """Begin a sequence in a slot, whatever was there; see `Slots.start`. With `later` its prompt is taken in beside
        the next pass, and no draft can be asked for before."""
        self.join()
        begin = partial(self._drafts.start, slot, prompt, drafter)
        self._later.append(begin) if later else begin()
        self.budget.start(slot)
        self._emitted[slot] = 0
        self._pending.pop(slot, None)
        if self._proposed is None:
            self.timer.start()

    def end(self, slot: int) -> None:
        """The sequence in a slot has ended."""
        self.join()
        self._drafts.end(slot)

    def propose(self, slots: Sequence[int] | NDArray[np.int64], limits: Limits) -> Drafts:
        """A draft for each of these sequences, possibly empty: `Trees`, or `Chains` where no siblings are verified."""
        active = np.asarray(slots, np.int64)
        self.timer.propose()
        self.join()
        drafts: Drafts
        self.budget.begin(limits)
        cap = min(self.budget.draft_cap(active), limits.nodes)
        if cap > 0:
            drafts = self._drafts.draft(active, cap, limits, self.budget.threshold)
            if isinstance(drafts, Trees):
                drafts = Trees([_within(tree, depth, limits) for tree, depth in zip(drafts, limits.depth, strict=True)])
            elif isinstance(drafts, Chains) and limits.vocabulary is not None:
                drafts = drafts.within(limits.vocabulary)
            drafts = self.budget.choose(active, drafts, self._emitted[active])
            if limits.again is not None and any(limits.again):
                drafts = _level(drafts, limits.again)
        else:
            drafts = Trees([DraftTree.empty()] * len(active))
        self.top_k = 0 if self.budget.in_backoff and not drafts.size else self._top_k
        self._proposed, self._again = drafts, min(limits.again or [0])
        self.timer.proposed()
        return drafts

    def observe(
        self, slots: Sequence[int] | NDArray[np.int64], outcomes: StepOutcomes, *, prompt_tokens: int | None = 0
    ) -> None:
        """Learn from what the target said, and from how long it took.

        Args:
            slots: the sequences that took part.
            outcomes: of each.
            prompt_tokens: tokens of prompts that the pass took in besides; None where that is not known, or the time
                since the proposal is not the pass's.
        """
        active = np.asarray(slots, np.int64)
        proposed, emitted = self._proposed, outcomes.emitted
        self.timer.observe()
        self.join()
        self.budget.observe(active, outcomes)
        self._emitted[active] += emitted
        if isinstance(outcomes, Outcomes):
            due = self._due(outcomes)
            learn = self._drafts.observe(np.array([outcome.slot for outcome in due], np.int64), due)
        else:
            learn = self._drafts.observe(active, outcomes)
        if self._async_above is not None and len(active) > self._async_above:
            self._later.append(learn)
        else:
            learn()
        self.timer.observed()
        if proposed is not None:
            step, count = None, len(active)
            if prompt_tokens is not None and count:
                tokens = self.budget.tokens(count, proposed) + count * self._again
                step = Pass(count, tokens, int(emitted.sum()), prompt_tokens, self.timer.verify_s)
            self.budget.timed(step, self.timer.draft_s, self.timer.learn_s)
        if isinstance(outcomes, Outcomes):
            self._stats.add(outcomes, self.timer, first=proposed is None)

    def learn_aside(self) -> None:
        """Begin to learn what was put off, in another thread: to be called last in a step, before the model's pass."""
        if self._later and self._threads is not None:
            self._learning, self._later = self._threads.submit(_run, self._later), []

    def join(self) -> None:
        """Wait until what earlier steps emitted is learned."""
        if self._learning is not None:
            self._learning.result()
            self._learning = None

    def close(self) -> None:
        """Learn what was put off."""
        self.join()
        _run(self._later)
        self._later = []
        for slot, tokens in self._pending.items():
            self._drafts.observe(np.array([slot]), Outcomes([Outcome(tokens, slot=slot)]))()
        self._pending = {}

    def _due(self, outcomes: Outcomes) -> Outcomes:
        """The outcomes to learn from now. In backoff tokens are put off, and then learned all at once: where drafts
        gain nothing, learning must cost nothing."""
        due: list[Outcome] = []
        for outcome in outcomes:
            if not outcome.emitted:
                continue
            if self.budget.in_backoff and not len(outcome.tree) and not outcome.finished:
                self._pending.setdefault(outcome.slot, []).extend(outcome.emitted)
                continue
            if pending := self._pending.pop(outcome.slot, None):
                due.append(Outcome(pending, slot=outcome.slot))
            due.append(outcome)
        return Outcomes(due)


def _run(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _within(tree: DraftTree, depth: int, limits: Limits) -> DraftTree:
    """The part of a tree that an engine can verify."""
    if limits.vocabulary is not None:
        tree = tree.within(limits.vocabulary)
    tree = tree.limit(nodes=limits.nodes, depth=int(depth))
    if not limits.trees:
        return tree.best_chain()
    return tree if limits.paths is None else tree.prune(limits.paths)


def _level(drafts: Drafts, again: Sequence[int]) -> Trees:
    """The part of each draft that fits a step in which each sequence has so many tokens before its root."""
    trees = list(drafts)
    least = min(again)
    width = least + max(len(tree) for tree, lead in zip(trees, again, strict=True) if lead == least)
    return Trees(tree.limit(nodes=max(width - lead, 0)) for tree, lead in zip(trees, again, strict=True))
