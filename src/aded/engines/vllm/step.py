"""One step over all running requests: find them again, learn, draft, and choose what is worth verifying."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from aded.drafters.many import ManyDrafter
from aded.engines.vllm.requests import Requests
from aded.engines.vllm.sharing import SharedBudget

__all__ = ["StepDrafter"]

_MANY = 32  # requests from which learning is done beside the next step: drafts then know one step less


class StepDrafter:
    """Drafts for every running request, once a step, as many tokens in all as pay.

    Args:
        drafter: with a place for every request that can run at once.
        max_length: tokens of the longest sequence the model takes.
        least: no draft goes on where its path is less likely.
        clock: seconds; steps are timed by it.

    Attributes:
        began: when the last step did, by the clock.
    """

    def __init__(
        self,
        drafter: ManyDrafter,
        *,
        max_length: int,
        least: float = 0.05,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._drafter, self._max_length, self._clock = drafter, max_length, clock
        self._requests = Requests(drafter.sequences)
        self._budget = SharedBudget(drafter.sequences, drafter.longest, least)
        self.began = self._ended = 0.0
        self._threads = ThreadPoolExecutor(1, "aded-learn")
        self._late: Future[None] | None = None
        self._warm_up()

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
            self._ended = self._clock()
            return drafts
        fresh, ends = emitted[rows], lengths[rows].astype(np.int64)
        places, new = self._requests.find(tokens, rows, ends, fresh)
        self.settle()
        recent = self._drafter.recent(tokens, rows, ends)
        begun = [(int(places[i]), tokens[rows[i], : ends[i]].copy()) for i in np.flatnonzero(new).tolist()]
        old = ~new
        self._budget.learn(places[old], fresh[old] - 1)
        late = len(rows) > _MANY
        if not late:
            self._learn(begun, places[old], recent[old], fresh[old])
        if old.any():  # else the engine may have had nothing to do in between
            drafted, prompts = int(self._budget.drafted[places[old]].sum()), 0
            if new.any() or len(rows) < len(emitted):
                prompts = max(scheduled - len(rows) - drafted, 0) if scheduled else -1
            if prompts >= 0:
                spent = self.began - self._ended
                self._budget.times.learn(len(rows), drafted, prompts, int(fresh.sum()), spent)
        if self._budget.wants(len(rows)):
            # One token is emitted besides the draft.
            most = np.clip(self._max_length - ends - 1, 0, self._drafter.longest)
            if late:
                most[new] = 0  # their place is not theirs yet
            since = self._clock()
            ids, paths = self._drafter.draft(places, recent, most, self._budget.worth)
            chosen = self._budget.choose(places, paths, self._clock() - since)
            for row, draft, n in zip(rows.tolist(), ids.tolist(), chosen.tolist(), strict=True):
                if n:
                    drafts[row] = draft[:n]
        if late:
            self._late = self._threads.submit(self._learn, begun, places[old], recent[old], fresh[old])
        self._ended = self._clock()
        return drafts

    def settle(self) -> None:
        """Wait until what the last step emitted is learned."""
        if self._late is not None:
            self._late.result()
            self._late = None

    def _learn(
        self,
        begun: list[tuple[int, NDArray[np.int32]]],
        places: NDArray[np.int64],
        recent: NDArray[np.int32],
        fresh: NDArray[np.int64],
    ) -> None:
        for place, tokens in begun:
            self._drafter.start(place, tokens)
            self._budget.begin(place)
        self._drafter.learn(places, recent, fresh)

    def _warm_up(self) -> None:
        """Compile everything before the first request."""
        tokens, one = np.zeros((2, 8), np.int32), np.ones(1, np.int64)
        requests = Requests(2)
        requests.find(tokens, 0 * one, 4 * one, one)
        requests.find(tokens, one, 5 * one, one)  # moved to another row
        recent = self._drafter.recent(tokens, 0 * one, one)
        self._drafter.start(0, tokens[0, :0])
        self._drafter.learn(one[:0], recent[:0], one[:0])
        self._drafter.draft(0 * one, recent, one, 0.5)
        budget = SharedBudget(1, self._drafter.longest)
        for drafted in (0, 1):
            budget.times.learn(1, drafted, 0, 1, 1.0)
        paths = np.full((1, self._drafter.longest), 0.9, np.float32)
        budget.choose(one - 1, paths)
        budget.learn(one - 1, one)
