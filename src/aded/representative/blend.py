"""One distribution from many: context lengths and layers of memory blended by how far each has proved right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.representative.corpus import Corpus
from aded.representative.kernels import context_keys, find, jit
from aded.representative.table import Representative

__all__ = ["MAX_CANDIDATES", "Blend", "Trust", "blend", "reckon"]

MAX_CANDIDATES = 48

# A slot is judged by how often its context was seen and how sure it is. Upper edges of the buckets; the last is open.
_COUNTS = (1.5, 2.5, 4.5, 8.5, 20.5)
_TOPS = (0.3, 0.6, 0.85, 0.97, 0.9999)
_TYPICAL_COUNTS = (1.0, 2.0, 3.5, 6.0, 13.0, 40.0)
_CELLS = (len(_COUNTS) + 1) * (len(_TOPS) + 1)
# From this length on a context is a passage met before, and its successors are what to copy.
_PASSAGE = 8
_ALL = np.float32(0.0)


@jit
def _read(layer, order, key, token):
    """(slot, what to divide its weights by, cell, weight of `token`); slot -1 where nothing is known."""
    slot = find(layer[0], key)
    if slot < 0:
        return slot, np.float32(1.0), 0, np.float32(0.0)
    successors, weights = layer[3], layer[4]
    total = top = mine = np.float32(0.0)
    for i in range(successors.shape[1]):
        weight = weights[slot, i]
        total += weight
        top = max(top, weight)
        if successors[slot, i] == token:
            mine = weight
    if total <= 0.0:
        return np.int64(-1), np.float32(1.0), 0, np.float32(0.0)
    # A distribution cut to its head sums to less than one, counts to more: only the latter are normalised. After a
    # passage all are: what stood in the prompt is learned with less than its whole mass, and each step of a copy
    # would lose the rest again.
    if order < _PASSAGE:
        total = max(total, np.float32(1.0))
    cell = 0
    for edge in _COUNTS:
        cell += (len(_TOPS) + 1) * int(layer[2][slot] > edge)
    for edge in _TOPS:
        cell += int(top / total > edge)
    return slot, total, cell, mine


@jit
def blend(layers, orders, trust, keys, out_ids, out_probs, enough=_ALL):
    """The blended distribution after the context of `keys`; returns how many candidates were written, unsorted.

    It ends where no more than `enough` of the mass is free.

    From the longest context down, and from the first layer to the last within a context length, each slot takes the
    share of the mass still free that its cell of `trust` (layers, orders, cells) names: back-off by stick-breaking.
    """
    size = 0
    free = np.float32(1.0)
    for j in range(len(orders) - 1, -1, -1):
        key = keys[orders[j]]
        if key == 0:
            continue
        for n in range(len(layers)):
            slot, total, cell, _ = _read(layers[n], orders[j], key, -1)
            if slot < 0:
                continue
            successors, weights = layers[n][3], layers[n][4]
            share = free * trust[n, j, cell]
            for i in range(successors.shape[1]):
                if weights[slot, i] <= 0.0:
                    continue
                token = successors[slot, i]
                gain = share / total * weights[slot, i]
                known = False
                for m in range(size):
                    if out_ids[m] == token:
                        out_probs[m] += gain
                        known = True
                        break
                if not known and size < len(out_ids):
                    out_ids[size] = token
                    out_probs[size] = gain
                    size += 1
            free -= share
            if free <= enough:
                return size
    return size


@jit
def reckon(layers, orders, trust, seen, contexts, chosen, least, prior):
    """Move each share toward the posterior that its slot, and not those it precedes, produced the chosen token.

    What it learns into is a `Trust`'s `shares` and `seen`, and its `steps` are `least` and `prior`.
    """
    keys = np.zeros(orders[-1] + 1, np.uint64)
    for r in range(len(contexts)):
        if chosen[r] < 0:
            continue
        context_keys(contexts[r], keys)
        below = np.float32(1e-4)  # what no table knows: a token nobody named
        for j in range(len(orders)):
            key = keys[orders[j]]
            if key == 0:
                continue
            for n in range(len(layers) - 1, -1, -1):
                slot, total, cell, weight = _read(layers[n], orders[j], key, chosen[r])
                if slot < 0:
                    continue
                share = trust[n, j, cell]
                mine = share * weight / total
                both = mine + (np.float32(1.0) - share) * below
                seen[n, j, cell] += np.float32(1.0)
                step = max(np.float32(1.0) / (seen[n, j, cell] + prior), least)
                moved = share + step * (mine / both - share)
                trust[n, j, cell] = min(max(moved, np.float32(0.01)), np.float32(0.995))
                below = both


class Trust:
    """How much of the free probability mass a slot may take, learned from what the target then chose.

    A cell holds the slots of one layer and context length that were seen about as often and are about as sure. Its
    share starts at n / (n + doubt), n the observations typical of the cell, and follows the mean posterior that the
    slot was the one to explain the target's choice: one step of expectation-maximisation a token (Jelinek and
    Mercer's interpolation, 1980, made online).

    Args:
        orders: context lengths, ascending.
        layers: layers of memory.
        doubt: for each order, how many observations it takes to be believed half; 0 believes everything at once.
    """

    # The least step of an update, and how many observations the start counts as.
    steps = (np.float32(0.002), np.float32(30.0))

    def __init__(self, orders: Sequence[int], layers: int, doubt: Sequence[float]) -> None:
        if len(doubt) != len(orders):
            raise ValueError(f"{len(orders)} orders need as many doubts, got {len(doubt)}")
        n = np.repeat(np.array(_TYPICAL_COUNTS), len(_TOPS) + 1)
        start = n / (n + np.array(doubt, np.float64)[:, None])
        self.shares: NDArray[np.float32] = np.stack([start.astype(np.float32)] * layers)
        self.seen = np.zeros(self.shares.shape, np.float32)

    def learn(self, blend: Blend, contexts: NDArray[np.int32], chosen: NDArray[np.int32]) -> None:
        """Learn from the target's choice, int32 (r,), after each context, int32 (r, c); before the tables do.

        Rows with a choice of -1 are left out.
        """
        reckon(
            blend.tables,
            blend.orders,
            self.shares,
            self.seen,
            contexts,
            chosen,
            *self.steps,
        )


class Blend:
    """Layers of memory read as one distribution, the most private first.

    Args:
        layers: tables over the same vocabulary.
        trust: the share each may take; the default believes a context seen once half.
    """

    def __init__(self, layers: Sequence[Representative | Corpus], trust: Trust | None = None) -> None:
        orders = sorted({order for layer in layers for order in layer.orders})
        self.orders: NDArray[np.int64] = np.asarray(orders, np.int64)
        self.tables = tuple(layer.arrays for layer in layers)
        self.trust = trust or Trust(orders, len(layers), [1.0] * len(orders))
        if self.trust.shares.shape != (len(layers), len(orders), _CELLS):
            raise ValueError("the trust was made for other layers or context lengths")

    @property
    def context_length(self) -> int:
        """Tokens of context a lookup can use."""
        return int(self.orders[-1])

    @property
    def lookup_args(self) -> tuple[Any, NDArray[np.int64], NDArray[np.float32]]:
        """What `blend` reads, for compiled searches."""
        return self.tables, self.orders, self.trust.shares

    def predict(self, context: Sequence[int] | NDArray[np.int32]) -> list[tuple[int, float]]:
        """(token, probability) after `context`, likeliest first; empty for a context never seen."""
        keys = np.zeros(self.context_length + 1, np.uint64)
        ids = np.zeros(MAX_CANDIDATES, np.int32)
        probs = np.zeros(MAX_CANDIDATES, np.float32)
        context_keys(np.asarray(context, np.int32), keys)
        n = blend(*self.lookup_args, keys, ids, probs)
        return sorted(zip(ids[:n].tolist(), probs[:n].tolist(), strict=True), key=lambda pair: -pair[1])
