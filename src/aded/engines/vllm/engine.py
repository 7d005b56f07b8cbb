"""One step over all running requests: find them again, observe what they emitted, propose what is worth verifying."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Chains, Limits
from aded.budget import Acceptance, AdaptiveBudget, Budget, CalibratedBudget, FixedBudget, LearnedCost, Pass
from aded.drafters.base import Drafter
from aded.engines.vllm.meter import Meter
from aded.engines.vllm.requests import Requests, recent_tokens
from aded.speculation import Speculator
from aded.stats import Timer

_ASYNC_ABOVE = 32  # requests from which learning is done beside the next pass: drafts then know one step less


class Emitted(NamedTuple):
    """The requests that emitted something in the last step.

    Attributes:
        slots: a number of each that is its own while it runs, int64 (r,).
        new: which of them were not known before, bool (r,).
        ends: tokens of each, those emitted included, int64 (r,).
        fresh: how many of them were emitted, int64 (r,).
        recent: last tokens of each, as many as `StepDrafter.width`, -1 before the first, int32 (r, width).
    """

    slots: NDArray[np.int64]
    new: NDArray[np.bool_]
    ends: NDArray[np.int64]
    fresh: NDArray[np.int64]
    recent: NDArray[np.int32]


class StepDrafter:
    """Drafts for every running request, once a step, as many tokens in all as pay.

    Args:
        drafter: see `aded.engines.base.server_drafter`.
        requests: as many as can run at once.
        max_length: tokens of the longest sequence the model takes.
        longest: most tokens of a draft.
        max_draft_tokens: tokens of each draft, whatever they cost, up to `longest`; None: as many as pay.
        ranked: whether the engine chooses among the drafts, by `confidences`.
        min_probability: no draft goes on where its path is less likely.
        clock: seconds; steps are timed by it.

    Attributes:
        began: when the last step did, by the clock.
        meter: what is counted of them.
        width: last tokens of a request that a step needs: a context, and what it can emit.
    """

    def __init__(
        self,
        drafter: Drafter,
        *,
        requests: int,
        max_length: int,
        longest: int = 8,
        max_draft_tokens: int | None = None,
        ranked: bool = False,
        min_probability: float = 0.05,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if requests < 1 or longest < 1:
            raise ValueError(f"there must be at least 1 request and 1 draft token, not {requests} and {longest}")
        self._max_length, self._most, self._clock = max_length, longest, clock
        self._requests = Requests(requests)
        budget: Budget
        cost = LearnedCost()
        if ranked:
            most = longest if max_draft_tokens is None else max_draft_tokens
            budget = CalibratedBudget(most, slots=requests, min_probability=min_probability)
        elif max_draft_tokens is None:
            budget = AdaptiveBudget(cost, slots=requests, ragged=True, min_probability=min_probability)
        else:
            budget = FixedBudget(max_draft_tokens, min_probability=min_probability)
        self._speculator = Speculator(drafter, budget, count=requests, timer=Timer(clock), async_learning=_ASYNC_ABOVE)
        self._verified = np.zeros((requests, longest), np.float32)  # path probabilities of each slot's draft
        self.width = getattr(drafter, "context_length", 0) + longest + 1
        self.began = 0.0
        self._warm_up(drafter)
        self.meter = Meter(budget, self._speculator.timer, cost.times)

    def __call__(
        self,
        sampled: list[list[int]],
        lengths: NDArray[np.int32],
        tokens: NDArray[np.int32],
        scheduled: int | None = None,
    ) -> list[list[int]]:
        """A draft for each row, possibly empty.

        Args:
            sampled: what each row's request emitted in the last step; nothing where its prompt is not done.
            lengths: tokens of each request, those included, (rows or more,).
            tokens: int32 (rows or more, length), the tokens.
            scheduled: tokens in the last step's pass, those of prompts included, if known.
        """
        self.began = self._clock()
        drafts: list[list[int]] = [[] for _ in sampled]
        emitted = np.fromiter(map(len, sampled), np.int64, len(sampled))
        rows = np.flatnonzero(emitted)
        if not rows.size:
            self._speculator.timer.start()
            return drafts
        fresh, ends = emitted[rows], lengths[rows].astype(np.int64)
        slots, new = self._requests.find(tokens, rows, ends, fresh)
        step = Emitted(slots, new, ends, fresh, recent_tokens(tokens, rows, ends, self.width))
        chosen = self.advance(
            step,
            lambda i: tokens[rows[i], : ends[i]].copy(),
            prompt_tokens=self._prompt_tokens(slots[~new], int(new.sum()), len(emitted), scheduled),
        )
        for row, draft, n in zip(rows.tolist(), chosen.ids.tolist(), chosen.lengths.tolist(), strict=True):
            if n:
                drafts[row] = draft[:n]
        return drafts

    def advance(
        self,
        step: Emitted,
        whole: Callable[[int], NDArray[np.int32]],
        *,
        prompt_tokens: int | None = None,
        verified: NDArray[np.int64] | None = None,
    ) -> Chains:
        """A chain for each of these requests, possibly empty.

        Args:
            whole: gives all tokens of the request at a place of `step`, int32 (its end,); asked for those that are new.
            prompt_tokens: tokens of prompts in the last pass; None where it, or the pass's time, is not known.
            verified: drafted tokens of each request that were verified, int64 (r,); None: all.
        """
        self.began = self._clock()
        late, known = len(step.slots) > _ASYNC_ABOVE, ~step.new
        self._speculator.join()
        for i in np.flatnonzero(step.new).tolist():
            start = self._speculator.start_later if late else self._speculator.start
            start(int(step.slots[i]), whole(i))
        slots = step.slots[known]
        paths = self._verified[slots]
        if verified is not None:
            paths[np.arange(paths.shape[1]) >= verified[known, None]] = 0.0
        outcomes = ChainOutcomes(step.recent[known], step.fresh[known], paths)
        self._speculator.observe(slots, outcomes, prompt_tokens=prompt_tokens)
        depth = np.minimum(np.maximum(self._max_length - step.ends - 1, 0), self._most)  # a token is emitted besides
        if late:
            depth[step.new] = 0  # their slot is not theirs yet
        chosen = self._speculator.propose(step.slots, Limits(depth, nodes=self._most, trees=False))
        if not isinstance(chosen, Chains):
            chosen = Chains.of(chosen, self._most)
        self._verified[:] = 0.0
        self._verified[step.slots, : chosen.paths.shape[1]] = chosen.paths
        self.meter.step(chosen.size)
        self._speculator.learn_aside()
        return chosen

    def confidences(self, chosen: Chains) -> NDArray[np.float32]:
        """Probability that each token is accepted if those before it were, (r, longest); 0 past an end. Of the chains
        drafted last, where the engine ranks them."""
        budget = self._speculator.budget
        assert isinstance(budget, CalibratedBudget)
        likely = np.zeros((len(chosen), chosen.ids.shape[1]))
        likely[np.arange(likely.shape[1]) < chosen.lengths[:, None]] = budget.likely
        before = np.concatenate([np.ones((len(likely), 1)), likely[:, :-1]], axis=1)
        shares: NDArray[np.float32] = np.divide(likely, before, out=np.zeros_like(likely), where=before > 0).astype(
            np.float32
        )
        return shares

    def join(self) -> None:
        """Wait until what the last step emitted is learned."""
        self._speculator.join()

    def _prompt_tokens(self, slots: NDArray[np.int64], begun: int, rows: int, scheduled: int | None) -> int | None:
        """Tokens of prompts in the last pass; None where the time since the last proposal says nothing."""
        if not len(slots):
            return None  # the engine may have had nothing to do in between
        if not begun and len(slots) == rows:
            return 0
        drafted = int(np.count_nonzero(self._verified[slots]))
        return max(scheduled - len(slots) - begun - drafted, 0) if scheduled else None

    def _warm_up(self, drafter: Drafter) -> None:
        """Compile everything before the first request."""
        one, tokens, requests = np.zeros(1, np.int64), np.zeros((2, 8), np.int32), Requests(2)
        for row in (0, 1):  # moved to another row
            requests.find(tokens, one + row, one + 4 + row, one + 1)
        cost = LearnedCost()
        for drafted in (0, 0, 1):
            cost.observe(Pass(1, 1 + drafted, 1, 0, 1.0))
        scratch = Speculator(drafter, AdaptiveBudget(cost, ragged=True))
        scratch.start(0, tokens[0, :0])
        recent = recent_tokens(tokens, one, one, self.width)
        scratch.observe(one[:0], ChainOutcomes(recent[:0], one[:0], self._verified[:0]), prompt_tokens=None)
        scratch.propose(one, Limits(one + 1, nodes=1, trees=False))
        nodes = Chains(tokens[:1], np.full((1, 8), 0.9, np.float32)).nodes()
        Acceptance(1).learn(one, nodes, nodes.depth < 1)
