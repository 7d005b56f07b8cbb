"""Chains for many sequences at once: what the adaptive drafter knows and does, compiled into two calls a step.

A server drafts for hundreds of sequences between two steps of a few milliseconds each. One table is shared by all, each
sequence has a small one of its own, and learning and drafting loop over sequences in compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from aded.drafters.adaptive import PROMPT_PROBABILITY, first_trust
from aded.representative import Blend, Corpus, Representative, windows
from aded.representative.blend import MAX_CANDIDATES, find_all, likeliest, reckon
from aded.representative.kernels import bucket, context_keys, jit, learn
from aded.representative.prefetch import prefetch

__all__ = ["SUCCESSORS", "ManyDrafter"]

SUCCESSORS = 8  # to keep of a context in the shared table: from kept tokens alone more are rare

_OWN_FORGETTING = np.float32(0.02)
_ENOUGH = np.float32(0.05)  # of the mass may stay unread: it takes time, and the likeliest token is hardly among it

# Learning holds no interpreter lock: a server runs its model meanwhile. Who calls it sees to it that nobody reads.
free: Any = numba.njit(cache=True, nogil=True)


@jit
def _own(pool, place):
    """The table of one sequence."""
    keys, stamps, counts, successors, weights = pool
    return keys[place], stamps[place], counts[place], successors[place], weights[place]


@jit
def _last(tokens, rows, lengths, last):
    for r in range(len(rows)):
        n = min(last.shape[1], lengths[r])
        last[r, last.shape[1] - n :] = tokens[rows[r], lengths[r] - n : lengths[r]]


@free
def _learn(pool, shared, orders, mine, trust, seen, places, recent, fresh, clock, forgetting, least, prior):
    """Learn the last `fresh` tokens of each sequence into its own table and the shared one."""
    width = orders[-1]
    for r in range(len(places)):
        n = fresh[r]
        contexts = np.empty((n, width), np.int32)
        what = recent[r, recent.shape[1] - n :].copy()
        for i in range(n):
            end = recent.shape[1] - n + i
            contexts[i] = recent[r, end - width : end]
        own = _own(pool, places[r])
        reckon((own, *shared), orders, trust, seen, contexts, what, least, prior)
        ids, sure = what.reshape(n, 1), np.ones((n, 1), np.float32)
        keys, stamps, counts, successors, weights = own
        learn(keys, stamps, counts, successors, weights, mine, contexts, ids, sure, clock, _OWN_FORGETTING)
        keys, stamps, counts, successors, weights = shared[0]
        learn(keys, stamps, counts, successors, weights, mine, contexts, ids, sure, clock, forgetting)


@jit
def _fetch_buckets(layers, orders, keys):
    for n in range(len(layers)):
        table_keys, _, _, _, _ = layers[n]
        for order in orders:
            prefetch(table_keys, bucket(keys[order], len(table_keys)))


@jit
def _find_and_fetch(layers, orders, keys, slots):
    find_all(layers, orders, keys, slots)
    for n in range(len(layers)):
        _, _, counts, successors, weights = layers[n]
        for j in range(len(orders)):
            if slots[j, n] >= 0:
                prefetch(counts, slots[j, n])
                prefetch(successors, slots[j, n])
                prefetch(weights, slots[j, n])


@jit
def _draft(pool, shared, orders, trust, places, recent, most, least, ids, paths):
    """Write the likeliest continuation of each sequence: its tokens, and the probability of the path up to each.

    Token by token the likeliest is taken, until the path is less likely than `least` or `most` tokens long.
    """
    width, count = orders[-1], len(places)
    paths[:] = 0.0
    keys = np.zeros((count, width + 1), np.uint64)
    slots = np.empty((count, len(orders), 1 + len(shared)), np.int64)
    tokens = np.empty((count, width + ids.shape[1]), np.int32)
    tokens[:, :width] = recent[:, recent.shape[1] - width :]
    candidates = np.empty(MAX_CANDIDATES, np.int32)
    probs = np.empty(MAX_CANDIDATES, np.float32)
    going = np.arange(count)
    for depth in range(ids.shape[1]):
        # The model's pass has left nothing of the tables in the caches. So each stage goes through all sequences, and
        # has fetched what the next one reads.
        for r in going:
            context_keys(tokens[r, depth : depth + width], keys[r])
            _fetch_buckets((_own(pool, places[r]), *shared), orders, keys[r])
        for r in going:
            _find_and_fetch((_own(pool, places[r]), *shared), orders, keys[r], slots[r])
        still = 0
        for r in going:
            if depth >= most[r]:
                continue
            before = paths[r, depth - 1] if depth > 0 else np.float32(1.0)
            token, prob = likeliest(
                (_own(pool, places[r]), *shared), orders, trust, slots[r], candidates, probs, least / before, _ENOUGH
            )
            if token < 0:
                continue
            ids[r, depth] = token
            paths[r, depth] = before * prob
            tokens[r, width + depth] = token
            going[still] = r
            still += 1
        going = going[:still]


class ManyDrafter:
    """Drafts chains for up to `sequences` sequences, each in a place of its own, from tokens alone.

    Args:
        representative: learned by all sequences, and read by all.
        sequences: places for sequences.
        sequence_mb: memory of a sequence's own table; it is reserved for each place, and taken by those in use.
        corpus: read after what was learned.
        longest: most tokens of a draft.

    Attributes:
        width: tokens of a sequence's end that learning and drafting look at.
    """

    def __init__(
        self,
        representative: Representative,
        *,
        sequences: int,
        sequence_mb: float = 2.0,
        corpus: Corpus | None = None,
        longest: int = 8,
    ) -> None:
        if sequences < 1 or longest < 1:
            raise ValueError(f"sequences and longest must be at least 1, not {sequences} and {longest}")
        if corpus is not None:
            corpus.check(representative)
        # Few tokens follow a context within one sequence: narrow tables hold more contexts.
        own = Representative(memory_mb=sequence_mb, orders=representative.orders, successors=4)
        layers: list[Representative | Corpus] = [representative] if corpus is None else [representative, corpus]
        self._blend = Blend([own, *layers], first_trust(layers, own=True))
        self._pool: tuple[NDArray[Any], ...] = tuple(
            np.zeros((sequences, *array.shape), array.dtype) for array in own.arrays
        )
        self._shared = self._blend.tables[1:]
        self.representative = representative
        self._ids = np.zeros((sequences, longest), np.int32)
        self._paths = np.zeros((sequences, longest), np.float32)
        self.sequences, self.longest = sequences, longest
        self.width = self._blend.context_length + longest + 1
        self._orders = np.asarray(representative.orders, np.int64)

    def recent(
        self, tokens: NDArray[np.int32], rows: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """A copy of the last `width` of the first `lengths` (r,) tokens in `rows` (r,) of `tokens` (n, m)."""
        last = np.full((len(rows), self.width), -1, np.int32)
        _last(tokens, rows, lengths, last)
        return last

    def start(self, place: int, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Begin a sequence in a place, whatever was there: its tokens are learned as text, by its own table."""
        self._pool[0][place] = 0  # a table without keys is empty
        contexts, following = windows(np.asarray(tokens, np.int32), self._blend.context_length, 0)
        sure = np.full((len(following), 1), PROMPT_PROBABILITY, np.float32)
        own = tuple(array[place] for array in self._pool)
        clock = np.uint32(self.representative.clock)
        learn(*own, self._orders, contexts, following[:, None], sure, clock, _OWN_FORGETTING)

    def learn(self, places: NDArray[np.int64], recent: NDArray[np.int32], fresh: NDArray[np.int64]) -> None:
        """Learn what sequences emitted: the last `fresh`, int64 (r,), of their last tokens, int32 (r, `width`).

        Other threads run meanwhile, but must not call this object.
        """
        trust, table = self._blend.trust, self.representative
        with table.learning() as clock:
            _learn(
                self._pool,
                self._shared,
                self._blend.orders,
                self._orders,
                trust.shares,
                trust.seen,
                places,
                recent,
                fresh,
                clock,
                np.float32(table.forgetting),
                *trust.steps,
            )

    def draft(
        self, places: NDArray[np.int64], recent: NDArray[np.int32], most: NDArray[np.int64], least: float
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The likeliest continuations of sequences whose last tokens are `recent`, int32 (r, `width`).

        Args:
            places: where the sequences are, int64 (r,).
            recent: latest token last; -1 before the first.
            most: longest draft of each, int64 (r,).
            least: a draft ends before its path is less likely.

        Returns:
            ids int32 (r, longest) and path probabilities float32 (r, longest), 0 past a draft's end. Valid until the
            next call.
        """
        ids, paths = self._ids[: len(places)], self._paths[: len(places)]
        lookup = self._pool, self._shared, self._blend.orders, self._blend.trust.shares
        _draft(*lookup, places, recent, most, np.float32(least), ids, paths)
        return ids, paths
