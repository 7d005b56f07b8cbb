"""Recurrent and hybrid models: what they keep of a text is a state, from which rejected drafts cannot be dropped.

Some architectures can keep the states of the last tokens, and llama.cpp rolls back to one (`n_rs_seq`). Else the state
from before a pass is copied. Where a draft is rejected it is put back, and the next pass takes in the accepted tokens
again, in front of its own draft: so no pass is spent on repair.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import llama_cpp

from aded.batch import Limits, Outcomes
from aded.engines.llamacpp.engine import LlamaEngine, Scored, clear, fill, put
from aded.tree import DraftTree

ROLLBACK = 8  # tokens whose states a context keeps, if it can: a draft has no more. Each takes the memory of a state
_MOST_AGAIN = 8  # tokens taken in again; with more, a pass takes them in without a draft, which ends it
_PARTIAL = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


def is_recurrent(llama: Any) -> bool:
    """Whether some layers keep a state."""
    return bool(llama._is_recurrent or llama._is_hybrid)


def rolls_back(llama: Any) -> bool:
    """Whether its context keeps the states of the last tokens."""
    return bool(llama_cpp.llama_n_rs_seq(llama._ctx.ctx) > 0)


class State:
    """What the recurrent layers of a context keep, copied."""

    def __init__(self, llama: Any) -> None:
        self._context = llama._ctx.ctx
        size = llama_cpp.llama_state_seq_get_size_ext(self._context, 0, _PARTIAL)
        self._bytes = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data_ext(self._context, self._bytes, size, 0, _PARTIAL) != size:
            raise RuntimeError("llama.cpp gave no copy of its recurrent state")

    def restore(self, start: int) -> bool:
        """Put it back, and drop all entries from `start` on; False if it cannot be."""
        size = len(self._bytes)
        put_back = llama_cpp.llama_state_seq_set_data_ext(self._context, self._bytes, size, 0, _PARTIAL) == size
        memory = llama_cpp.llama_get_memory(self._context)
        return put_back and bool(llama_cpp.llama_memory_seq_rm(memory, 0, start, -1))


class RecurrentEngine(LlamaEngine):
    """A sequence of such a model; its drafts are chains."""

    def __init__(self, llama: Any, pending: Sequence[int], **options: Any) -> None:
        super().__init__(llama, pending, **options | {"trees": False})
        self._rolls = rolls_back(llama)
        self._state: State | None = None  # from before the pass, where it is not certain that all of it stays
        self._again: list[int] = []  # tokens that the cache does not hold, the last excepted
        self._fed: list[int] = []  # tokens of the pass

    def limits(self, slots: Sequence[int]) -> Limits:
        limits = super().limits(slots)
        if self._rolls:
            limits.nodes = min(limits.nodes, int(llama_cpp.llama_n_rs_seq(self._context)))
            return limits
        limits.again, limits.restores = [len(self._again)], True
        limits.nodes = max(limits.nodes - len(self._again), 0) if len(self._again) < _MOST_AGAIN else 0
        return limits

    def verify(self, slots: Sequence[int], trees: Sequence[DraftTree], top_k: int) -> list[Scored]:
        if self._rolls:
            return super().verify(slots, trees, top_k)
        (tree,) = trees
        batch, lead = self._llama._batch.batch, len(self._again)
        self._start = self._held = self.length - 1 - lead
        self._check_room(self.length + len(tree))
        self._set_threads(self._start)
        self._state = State(self._llama) if len(tree) else None
        self._fed = [*self._again, self.last, *tree.tokens.tolist()]
        batch.n_tokens = len(self._fed)
        for place, token in enumerate(self._fed):
            put(batch, place, token, self._start + place, (0,), scored=place >= lead)
        self._llama._ctx.decode(self._llama._batch)
        return [Scored(self, range(lead, len(self._fed)), top_k)]

    def commit(self, outcomes: Outcomes) -> None:
        """Where something was rejected, put the state back from before the pass."""
        if self._rolls or not self.is_current():
            super().commit(outcomes)
            return
        kept = self._fed[: len(self._again) + 1 + len(outcomes[0].kept)]
        if len(kept) == len(self._fed):
            self._again, self._held = [], self._start + len(kept)
        else:
            assert self._state is not None  # of a draft
            if not self._state.restore(self._start):
                clear(self._llama)
                raise RuntimeError("llama.cpp could not put its recurrent state back")
            self._again, self._held = kept, self._start
        self._state = None
        self._llama.n_tokens = self._held

    def abandon(self) -> None:
        if self._state is not None and self.is_current() and not self._state.restore(self._start):
            clear(self._llama)
        self._state = None
        super().abandon()


def timed(llama: Any, start: int, tokens: int) -> float:
    """Seconds that a step of so many tokens takes behind the first `start` entries; only they stay."""
    began = perf_counter()
    state = State(llama) if start else None
    copied = perf_counter()
    fill(llama, start, tokens)
    ended = perf_counter()
    if state is None or not state.restore(start):
        clear(llama)
    return ended - (began if tokens > 1 and not rolls_back(llama) else copied)
