"""One step over all running requests: find them again, observe what they emitted, propose what is worth verifying."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded import drafters
from aded.batch import ChainOutcomes, Chains, Limits
from aded.budget import Acceptance, AdaptiveBudget, Budget, FixedBudget, LearnedCost, Pass
from aded.drafters.base import Drafter
from aded.engines.vllm.requests import Requests, recent_tokens
from aded.errors import CorpusFileError
from aded.speculation import Speculator
from aded.stats import Timer

_ASYNC_ABOVE = 32  # requests from which learning is done beside the next pass: drafts then know one step less
_SUCCESSORS = 8  # to keep of a context in the shared table: from kept tokens alone more are rare
_OWN_SUCCESSORS = 4  # in a request's own: few tokens follow a context there, and narrow tables hold more contexts


def server_drafter(
    name: str, *, memory_mb: float = 64.0, sequence_mb: float = 2.0, share: str = "answers", corpus: Any = None
) -> Drafter:
    """A drafter by name as it serves hundreds of requests: prompts stay with their own, and tables are narrow.

    Raises:
        UnknownDrafterError: nobody is called that.
        CorpusFileError: it reads no corpus, or that is damaged.
    """
    if corpus is not None and not drafters.takes(name, "corpus"):
        raise CorpusFileError(f"the drafter {name} reads no corpus; leave it out, or use adaptive")
    wanted = {"memory_mb": memory_mb, "successors": _SUCCESSORS, "reserve": True, "share": share}
    wanted |= {"sequence_mb": sequence_mb, "sequence_successors": _OWN_SUCCESSORS, "corpus": corpus}
    return drafters.create(name, **{option: value for option, value in wanted.items() if drafters.takes(name, option)})


class StepDrafter:
    """Drafts for every running request, once a step, as many tokens in all as pay.

    Args:
        drafter: see `server_drafter`.
        requests: as many as can run at once.
        max_length: tokens of the longest sequence the model takes.
        longest: most tokens of a draft.
        max_draft_tokens: tokens of each draft, whatever they cost, up to `longest`; None: as many as pay.
        min_probability: no draft goes on where its path is less likely.
        clock: seconds; steps are timed by it.

    Attributes:
        began: when the last step did, by the clock.
    """

    def __init__(
        self,
        drafter: Drafter,
        *,
        requests: int,
        max_length: int,
        longest: int = 8,
        max_draft_tokens: int | None = None,
        min_probability: float = 0.05,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if requests < 1 or longest < 1:
            raise ValueError(f"there must be at least 1 request and 1 draft token, not {requests} and {longest}")
        self._max_length, self._most, self._clock = max_length, longest, clock
        self._requests = Requests(requests)
        budget: Budget
        if max_draft_tokens is None:
            budget = AdaptiveBudget(LearnedCost(), slots=requests, ragged=True, min_probability=min_probability)
        else:
            budget = FixedBudget(max_draft_tokens, min_probability=min_probability)
        self._speculator = Speculator(drafter, budget, count=requests, timer=Timer(clock), async_learning=_ASYNC_ABOVE)
        self._verified = np.zeros((requests, longest), np.float32)  # path probabilities of each slot's draft
        # Last tokens handed on: a context, and what a step can emit.
        self._width = getattr(drafter, "context_length", 0) + longest + 1
        self.began = 0.0
        self._warm_up(drafter)

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
        late, begun = len(rows) > _ASYNC_ABOVE, np.flatnonzero(new).tolist()
        self._speculator.join()
        for i in begun:
            start = self._speculator.start_later if late else self._speculator.start
            start(int(slots[i]), tokens[rows[i], : ends[i]].copy())
        known = (slots, rows, ends, fresh) if not begun else tuple(x[~new] for x in (slots, rows, ends, fresh))
        old, old_rows, old_ends, old_fresh = known
        recent = recent_tokens(tokens, old_rows, old_ends, self._width)
        prompt_tokens = self._prompt_tokens(old, len(begun), len(emitted), scheduled)
        outcomes = ChainOutcomes(recent, old_fresh, self._verified[old])
        self._speculator.observe(old, outcomes, prompt_tokens=prompt_tokens)
        depth = np.minimum(np.maximum(self._max_length - ends - 1, 0), self._most)  # a token is emitted besides
        if late:
            depth[new] = 0  # their slot is not theirs yet
        chosen = self._speculator.propose(slots, Limits(depth, nodes=self._most, trees=False))
        if not isinstance(chosen, Chains):
            chosen = Chains.of(chosen, self._most)
        self._verified[:] = 0.0
        self._verified[slots, : chosen.paths.shape[1]] = chosen.paths
        for row, draft, n in zip(rows.tolist(), chosen.ids.tolist(), chosen.lengths.tolist(), strict=True):
            if n:
                drafts[row] = draft[:n]
        self._speculator.learn_aside()
        return drafts

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
        recent = recent_tokens(tokens, one, one, self._width)
        scratch.observe(one[:0], ChainOutcomes(recent[:0], one[:0], self._verified[:0]), prompt_tokens=None)
        scratch.propose(one, Limits(one + 1, nodes=1, trees=False))
        nodes = Chains(tokens[:1], np.full((1, 8), 0.9, np.float32)).nodes()
        Acceptance(1).learn(one, nodes, nodes.depth < 1)
