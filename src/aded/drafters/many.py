"""Chains for many sequences at once: what the adaptive drafter knows and does, compiled into two calls a step.

A server drafts for hundreds of sequences between two steps of a few milliseconds each. One table is shared by all, each
sequence has a small one of its own, and learning and drafting loop over sequences in compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.drafters.adaptive import DOUBT, PROMPT_PROBABILITY
from aded.representative import Blend, Corpus, Representative, Trust, windows
from aded.representative.blend import MAX_CANDIDATES, blend, reckon
from aded.representative.kernels import context_keys, jit, learn

__all__ = ["ManyDrafter"]

_OWN_FORGETTING = np.float32(0.02)


@jit
def _own(pool, place):
    """The table of one sequence."""
    keys, stamps, counts, successors, weights = pool
    return keys[place], stamps[place], counts[place], successors[place], weights[place]


@jit
def _learn(
    pool,
    shared,
    orders,
    mine,
    trust,
    seen,
    places,
    tokens,
    rows,
    lengths,
    fresh,
    clock,
    forgetting,
    least,
    prior,
    contexts,
):
    """Learn the last `fresh` tokens of each sequence, `lengths` long, into its own table and the shared one."""
    width = contexts.shape[1]
    for r in range(len(places)):
        own = _own(pool, places[r])
        row, n, end = rows[r], fresh[r], lengths[r]
        for i in range(n):
            at = end - n + i
            for j in range(width):
                before = at - width + j
                contexts[i, j] = tokens[row, before] if before >= 0 else -1
        what = tokens[row, end - n : end].copy()
        reckon((own, *shared), orders, trust, seen, contexts[:n], what, least, prior)
        ids, sure = what.reshape(n, 1), np.ones((n, 1), np.float32)
        keys, stamps, counts, successors, weights = own
        learn(keys, stamps, counts, successors, weights, mine, contexts[:n], ids, sure, clock, _OWN_FORGETTING)
        keys, stamps, counts, successors, weights = shared[0]
        learn(keys, stamps, counts, successors, weights, mine, contexts[:n], ids, sure, clock, forgetting)


@jit
def _draft(pool, shared, orders, trust, places, tokens, rows, lengths, most, least, ids, paths):
    """Write the likeliest continuation of each sequence: its tokens, and the probability of the path up to each.

    Token by token the likeliest is taken, until the path is less likely than `least` or `most` tokens long.
    """
    keys = np.zeros(orders[-1] + 1, np.uint64)
    context = np.empty(orders[-1], np.int32)
    candidates = np.empty(MAX_CANDIDATES, np.int32)
    probs = np.empty(MAX_CANDIDATES, np.float32)
    width = len(context)
    paths[:] = 0.0
    for r in range(len(places)):
        layers = (_own(pool, places[r]), *shared)
        for j in range(width):
            at = lengths[r] - width + j
            context[j] = tokens[rows[r], at] if at >= 0 else -1
        path = np.float32(1.0)
        for depth in range(most[r]):
            context_keys(context, keys)
            found = blend(layers, orders, trust, keys, candidates, probs)
            if found == 0:
                break
            best = 0
            for m in range(1, found):
                if probs[m] > probs[best]:
                    best = m
            path *= min(probs[best], np.float32(1.0))
            if path < least:
                break
            ids[r, depth] = candidates[best]
            paths[r, depth] = path
            context[:-1] = context[1:]
            context[-1] = candidates[best]


class ManyDrafter:
    """Drafts chains for up to `sequences` sequences, each in a place of its own, from tokens alone.

    Args:
        representative: learned by all sequences, and read by all.
        sequences: places for sequences.
        sequence_mb: memory of a sequence's own table; it is reserved for each place, and taken by those in use.
        corpus: read after what was learned.
        longest: most tokens of a draft.
        steps: most tokens a sequence may emit between two calls of `learn`.
    """

    def __init__(
        self,
        representative: Representative,
        *,
        sequences: int,
        sequence_mb: float = 2.0,
        corpus: Corpus | None = None,
        longest: int = 8,
        steps: int = 64,
    ) -> None:
        if sequences < 1 or longest < 1:
            raise ValueError(f"sequences and longest must be at least 1, not {sequences} and {longest}")
        if corpus is not None:
            corpus.check(representative)
        # Few tokens follow a context within one sequence: narrow tables hold more contexts.
        own = Representative(memory_mb=sequence_mb, orders=representative.orders, successors=4)
        layers: list[Representative | Corpus] = [representative] if corpus is None else [representative, corpus]
        orders = sorted({order for layer in layers for order in layer.orders})
        trust = Trust(orders, 1 + len(layers), [DOUBT.get(order, 1.0) for order in orders])
        self._blend = Blend([own, *layers], trust)
        self._pool: tuple[NDArray[Any], ...] = tuple(
            np.zeros((sequences, *array.shape), array.dtype) for array in own.arrays
        )
        self._shared = tuple(layer.arrays for layer in layers)
        self.representative = representative
        self._ids = np.zeros((sequences, longest), np.int32)
        self._paths = np.zeros((sequences, longest), np.float32)
        self._contexts = np.empty((steps, self._blend.context_length), np.int32)
        self._orders = np.asarray(representative.orders, np.int64)

    def start(self, place: int, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Begin a sequence in a place, whatever was there: its tokens are learned as text, by its own table."""
        self._pool[0][place] = 0  # a table without keys is empty
        contexts, following = windows(np.asarray(tokens, np.int32), self._blend.context_length, 0)
        sure = np.full((len(following), 1), PROMPT_PROBABILITY, np.float32)
        own = tuple(array[place] for array in self._pool)
        clock = np.uint32(self.representative.clock)
        learn(*own, self._orders, contexts, following[:, None], sure, clock, _OWN_FORGETTING)

    def learn(
        self,
        places: NDArray[np.int64],
        tokens: NDArray[np.int32],
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        fresh: NDArray[np.int64],
    ) -> None:
        """Learn what was emitted: the last `fresh` of the first `lengths` tokens in `rows`, each (r,), of `tokens`."""
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
                tokens,
                rows,
                lengths,
                np.minimum(fresh, len(self._contexts)),
                clock,
                np.float32(table.forgetting),
                *trust.steps,
                self._contexts,
            )

    def draft(
        self,
        places: NDArray[np.int64],
        tokens: NDArray[np.int32],
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        most: NDArray[np.int64],
        least: float,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The likeliest continuations of the first `lengths` tokens in `rows`, each int64 (r,), of `tokens` (n, m).

        Args:
            most: longest draft of each, int64 (r,).
            least: a draft ends before its path is less likely.

        Returns:
            ids int32 (r, longest) and path probabilities float32 (r, longest), 0 past a draft's end. Valid until the
            next call.
        """
        ids, paths = self._ids[: len(places)], self._paths[: len(places)]
        _draft(*self._lookup, places, tokens, rows, lengths, most, np.float32(least), ids, paths)
        return ids, paths

    @property
    def _lookup(self) -> tuple[Any, ...]:
        return self._pool, self._shared, self._blend.orders, self._blend.trust.shares
