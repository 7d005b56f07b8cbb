"""One distribution from many: context lengths and layers of memory blended by how far each has proved right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.representative.corpus import Corpus
from aded.representative.kernels import context_keys, find, jit
from aded.representative.table import Representative

__all__ = ["MAX_CANDIDATES", "Blend", "Trust", "blend", "find_all", "likeliest", "look_up", "reckon"]

MAX_CANDIDATES = 48

# A slot is judged by how often its context was seen and how sure it is. Upper edges of the buckets; the last is open.
_COUNTS = (1.5, 2.5, 4.5, 8.5, 20.5)
_TOPS = (0.3, 0.6, 0.85, 0.97, 0.9999)
_TYPICAL_COUNTS = (1.0, 2.0, 3.5, 6.0, 13.0, 40.0)
_CELLS = (len(_COUNTS) + 1) * (len(_TOPS) + 1)
# From this length on a context is a passage met before, and its successors are what to copy.
_PASSAGE = 8


@jit
def find_all(layers, orders, keys, slots):
    """Where each layer keeps what follows each context of `keys`, into slots int64 (orders, layers); -1 for nowhere."""
    for j in range(len(orders)):
        for n in range(len(layers)):
            slots[j, n] = find(layers[n][0], keys[orders[j]])


@jit
def look_up(layers, orders, context, keys, slots):
    """`find_all` for the contexts that end `context`; `keys`, uint64 (longest order + 1), is overwritten."""
    context_keys(context, keys)
    find_all(layers, orders, keys, slots)


# What follows takes rows of arrays, not tables: a tuple of arrays is slow to hand over.
@jit
def _judge(count, weights, order):
    """(what to divide one slot's weights by, its cell); (0, 0) where nothing is known."""
    total = top = np.float32(0.0)
    for weight in weights:
        total += weight
        top = max(top, weight)
    if total <= 0.0:
        return np.float32(0.0), 0
    # A distribution cut to its head sums to less than one, counts to more: only the latter are normalised. After a
    # passage all are: what stood in the prompt is learned with less than its whole mass, and each step of a copy
    # would lose the rest again.
    if order < _PASSAGE:
        total = max(total, np.float32(1.0))
    cell = 0
    for edge in _COUNTS:
        cell += (len(_TOPS) + 1) * int(count > edge)
    for edge in _TOPS:
        cell += int(top / total > edge)
    return total, cell


@jit
def _add(successors, weights, scale, size, best, out_ids, out_probs):
    """Add one slot's weights times `scale` to the candidates: (how many there are, which is the likeliest)."""
    for i in range(len(successors)):
        if weights[i] <= 0.0:
            continue
        m = 0
        while m < size and out_ids[m] != successors[i]:
            m += 1
        if m == len(out_ids):
            continue
        if m == size:
            out_ids[m] = successors[i]
            out_probs[m] = 0.0
            size += 1
        out_probs[m] += scale * weights[i]
        if out_probs[m] > out_probs[best]:
            best = m
    return size, best


@jit
def blend(layers, orders, trust, slots, out_ids, out_probs):
    """The blended distribution of what is in `slots`; returns how many candidates were written, unsorted.

    From the longest context down, and from the first layer to the last within a context length, each slot takes the
    share of the mass still free that its cell of `trust` (layers, orders, cells) names: back-off by stick-breaking.
    """
    size = best = 0
    free = np.float32(1.0)
    for j in range(len(orders) - 1, -1, -1):
        for n in range(len(layers)):
            slot = slots[j, n]
            if slot < 0:
                continue
            _, _, counts, successors, weights = layers[n]
            total, cell = _judge(counts[slot], weights[slot], orders[j])
            if total <= 0.0:
                continue
            share = free * trust[n, j, cell]
            size, best = _add(successors[slot], weights[slot], share / total, size, best, out_ids, out_probs)
            free -= share
    return size


@jit
def likeliest(layers, orders, trust, slots, ids, probs, least, enough):
    """The likeliest token of that blend and its probability; (-1, 0) where it is less likely than `least`.

    It is read only as long as something can still reach `least` and more than `enough` of the mass is free, so the
    probability can be too small by so much. `ids` and `probs` are overwritten.
    """
    size = best = 0
    free = np.float32(1.0)
    for j in range(len(orders) - 1, -1, -1):
        for n in range(len(layers)):
            slot = slots[j, n]
            if slot < 0:
                continue
            _, _, counts, successors, weights = layers[n]
            total, cell = _judge(counts[slot], weights[slot], orders[j])
            if total <= 0.0:
                continue
            share = free * trust[n, j, cell]
            size, best = _add(successors[slot], weights[slot], share / total, size, best, ids, probs)
            free -= share
            if probs[best] + free < least:
                return np.int32(-1), np.float32(0.0)
            if free <= enough:
                break
        if free <= enough:
            break
    if size == 0 or probs[best] < least:
        return np.int32(-1), np.float32(0.0)
    return ids[best], min(probs[best], np.float32(1.0))


@jit
def reckon(layers, orders, trust, seen, contexts, chosen, least, prior):
    """Move each share toward the posterior that its slot, and not those it precedes, produced the chosen token.

    What it learns into is a `Trust`'s `shares` and `seen`, and its `steps` are `least` and `prior`.
    """
    keys = np.zeros(orders[-1] + 1, np.uint64)
    slots = np.empty((len(orders), len(layers)), np.int64)
    for r in range(len(contexts)):
        if chosen[r] < 0:
            continue
        look_up(layers, orders, contexts[r], keys, slots)
        below = np.float32(1e-4)  # what no table knows: a token nobody named
        for j in range(len(orders)):
            for n in range(len(layers) - 1, -1, -1):
                slot = slots[j, n]
                if slot < 0:
                    continue
                _, _, counts, successors, weights = layers[n]
                total, cell = _judge(counts[slot], weights[slot], orders[j])
                if total <= 0.0:
                    continue
                weight = np.float32(0.0)
                for i in range(successors.shape[1]):
                    if successors[slot, i] == chosen[r]:
                        weight = weights[slot, i]
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
        slots = np.empty((len(self.orders), len(self.tables)), np.int64)
        look_up(self.tables, self.orders, np.asarray(context, np.int32), keys, slots)
        n = blend(*self.lookup_args, slots, ids, probs)
        return sorted(zip(ids[:n].tolist(), probs[:n].tolist(), strict=True), key=lambda pair: -pair[1])
