"""One step over all running requests: find them again, observe what they emitted, propose what is worth verifying."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Chains, Limits
from aded.budget import Acceptance, AdaptiveBudget, Budget, CalibratedBudget, FixedBudget, LearnedCost, Pass
from aded.drafters.base import Drafter
from aded.engines.base.asked import Asked
from aded.engines.base.slots import NamedSlots
from aded.engines.vllm.meter import Meter
from aded.engines.vllm.recent import recent_tokens
from aded.speculation import Speculator
from aded.stats import Timer

_ASYNC_ABOVE = 32  # requests from which learning is done beside the next pass: drafts then know one step less


@dataclass(frozen=True)
class Ran:
    """What vLLM's scheduler says of the step that was run.

    Attributes:
        names: of the requests, by row.
        verified: drafted tokens of each that were, by name; 0 where it has none.
        scheduled: tokens in the pass, those of prompts included.
        known: names of the requests that have not ended, those that were put off among them.
        asked: gives what a request of this name asks.
    """

    names: Sequence[str]
    verified: Mapping[str, int]
    scheduled: int
    known: Container[str]
    asked: Callable[[str], Asked]


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


def asked_of(request: Any) -> Asked:
    """What a request asks, as vLLM's runners know it: by its `sampling_params` and `lora_request`."""
    adapter = None if request.lora_request is None else str(request.lora_request.lora_name)
    return Asked.or_nothing(getattr(request.sampling_params, "extra_args", None), adapter)


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
        self._drafter, self._slots = drafter, NamedSlots(requests)
        self._ends = np.zeros(requests, np.int64)  # tokens of each slot's request
        self._silent = np.zeros(requests, np.bool_)  # slots of requests that are to have no drafts
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
        self, sampled: list[list[int]], lengths: NDArray[np.int32], tokens: NDArray[np.int32], ran: Ran
    ) -> list[list[int]]:
        """A draft for each row, possibly empty.

        Args:
            sampled: what each row's request emitted in the last step; nothing where its prompt is not done.
            lengths: tokens of each request, those included, (rows or more,).
            tokens: int32 (rows or more, length), the tokens.
            ran: of the last step.
        """
        self.began = self._clock()
        if len(self._slots) > len(sampled):
            self.end(self._slots.release([name for name in self._slots if name not in ran.known]))
        drafts: list[list[int]] = [[] for _ in sampled]
        emitted = np.fromiter(map(len, sampled), np.int64, len(sampled))
        rows = np.flatnonzero(emitted)
        if not rows.size:
            self._speculator.timer.start()
            return drafts
        names = [ran.names[row] for row in rows.tolist()]
        fresh, ends = emitted[rows], lengths[rows].astype(np.int64)
        slots, new = self._find(names, ends - fresh)
        self._ends[slots] = ends
        verified = np.fromiter((ran.verified.get(name, 0) for name in names), np.int64, len(names))
        decoded = int(np.count_nonzero(~new) + verified[~new].sum())
        chosen = self.advance(
            Emitted(slots, new, ends, fresh, recent_tokens(tokens, rows, ends, self.width)),
            lambda i: tokens[rows[i], : ends[i]].copy(),
            lambda i: ran.asked(names[i]),
            verified=verified,
            # Without a request that was known before, the engine may have had nothing to do in between.
            prompt_tokens=None if new.all() else max(ran.scheduled - decoded, 0),
        )
        for row, draft, n in zip(rows.tolist(), chosen.ids.tolist(), chosen.lengths.tolist(), strict=True):
            if n:
                drafts[row] = draft[:n]
        return drafts

    def _find(self, names: Sequence[str], before: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Slots of requests, int64 (r,), and which of them are new, bool (r,); `before` this step they had so many
        tokens, int64 (r,): with any other number somebody else has the name now."""
        found = [self._slots.find(name) for name in names]
        slots = np.array([-1 if slot is None else slot for slot in found], np.int64)
        new = (slots < 0) | (self._ends[slots] != before)
        for i in np.flatnonzero(slots < 0).tolist():
            slots[i] = self._slots.give(names[i])
        return slots, new

    def end(self, slots: Sequence[int]) -> None:
        """The requests in these slots have ended."""
        for slot in slots:
            self._speculator.end(slot)

    def advance(
        self,
        step: Emitted,
        whole: Callable[[int], NDArray[np.int32]],
        asked: Callable[[int], Asked],
        *,
        verified: NDArray[np.int64],
        prompt_tokens: int | None = None,
    ) -> Chains:
        """A chain for each of these requests, possibly empty.

        Args:
            whole: gives all tokens of the request at a place of `step`, int32 (its end,); of those that are new.
            asked: gives what it asks, in the same way.
            verified: drafted tokens of each request that were verified, int64 (r,).
            prompt_tokens: tokens of prompts in the last pass; None where it, or the pass's time, is not known.
        """
        self.began = self._clock()
        late, known = len(step.slots) > _ASYNC_ABOVE, ~step.new
        self._speculator.join()
        for i in np.flatnonzero(step.new).tolist():
            slot, asks = int(step.slots[i]), asked(i)
            self._silent[slot] = not asks.drafts
            self._speculator.start(slot, whole(i), asks.drafter(self._drafter), later=late)
        slots = step.slots[known]
        paths = self._verified[slots]
        paths[np.arange(paths.shape[1]) >= verified[known, None]] = 0.0
        outcomes = ChainOutcomes(step.recent[known], step.fresh[known], paths)
        self._speculator.observe(slots, outcomes, prompt_tokens=prompt_tokens)
        depth = np.minimum(np.maximum(self._max_length - step.ends - 1, 0), self._most)  # a token is emitted besides
        depth[self._silent[step.slots]] = 0
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

    def facts(self) -> dict[str, Any]:
        """What is counted for the server's metrics."""
        facts = self.meter.facts()
        if (table := getattr(self._drafter, "representative", None)) is not None:
            facts |= {"contexts": table.used, "filled": table.used / len(table.arrays.keys)}
        return facts

    def join(self) -> None:
        """Wait until what the last step emitted is learned."""
        self._speculator.join()

    def _warm_up(self, drafter: Drafter) -> None:
        """Compile everything before the first request."""
        one, tokens = np.zeros(1, np.int64), np.zeros((2, 8), np.int32)
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
