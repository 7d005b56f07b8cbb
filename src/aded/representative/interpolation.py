"""One distribution from many: context lengths and layers of memory interpolated by how far each has proved right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.kernels.jit import jit
from aded.representative.corpus import Corpus
from aded.representative.lookup import Table, context_keys, find
from aded.representative.table import Representative

MAX_CANDIDATES = 48  # different tokens one interpolated distribution can name

# A slot is judged by how often its context was seen and how sure it is. Upper edges of the buckets; the last is open.
COUNTS = (1.5, 2.5, 4.5, 8.5, 20.5)
TOPS = (0.3, 0.6, 0.85, 0.97, 0.9999)
_TYPICAL_COUNTS = (1.0, 2.0, 3.5, 6.0, 13.0, 40.0)
CELLS = (len(COUNTS) + 1) * (len(TOPS) + 1)
# From this length on a context is a passage met before, and its successors are what to copy.
_PASSAGE = 8


@jit
def look_up(layers, orders, context, keys, slots):
    """Where each layer keeps what follows each end of `context`, into slots int64 (orders, layers); -1 for nowhere.

    `keys`, uint64 (longest order + 1), is overwritten.
    """
    context_keys(context, keys)
    for j in range(len(orders)):
        for n in range(len(layers)):
            table_keys, _, _, _, _ = layers[n]
            slots[j, n] = find(table_keys, keys[orders[j]])


# Tables are taken apart where they are read, and rows of arrays handed on: whole tables are slow to hand over.
@jit
def _slot_stats(count, weights, order):
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
    for edge in COUNTS:
        cell += (len(TOPS) + 1) * int(count > edge)
    for edge in TOPS:
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
def interpolate(layers, orders, shares, slots, out_ids, out_probs):
    """The interpolated distribution of what is in `slots`; returns how many candidates were written, unsorted.

    From the longest context down, and from the first layer to the last within a context length, each slot takes the
    share of the mass still free that its cell of `shares` (layers, orders, cells) names: back-off by stick-breaking.
    """
    size = best = 0
    free = np.float32(1.0)
    for j in range(len(orders) - 1, -1, -1):
        for n in range(len(layers)):
            slot = slots[j, n]
            if slot < 0:
                continue
            _, _, counts, successors, weights = layers[n]
            total, cell = _slot_stats(counts[slot], weights[slot], orders[j])
            if total <= 0.0:
                continue
            share = free * shares[n, j, cell]
            size, best = _add(successors[slot], weights[slot], share / total, size, best, out_ids, out_probs)
            free -= share
    return size


@jit
def best_token(layers, orders, shares, slots, ids, probs, min_probability, unread):
    """The likeliest token of that distribution and its probability; (-1, 0) if it is below `min_probability`.

    It is read only as long as something can still reach `min_probability` and more than `unread` of the mass is free,
    so the probability can be too small by so much. `ids` and `probs` are overwritten.
    """
    size = best = 0
    free = np.float32(1.0)
    for j in range(len(orders) - 1, -1, -1):
        for n in range(len(layers)):
            slot = slots[j, n]
            if slot < 0:
                continue
            _, _, counts, successors, weights = layers[n]
            total, cell = _slot_stats(counts[slot], weights[slot], orders[j])
            if total <= 0.0:
                continue
            share = free * shares[n, j, cell]
            size, best = _add(successors[slot], weights[slot], share / total, size, best, ids, probs)
            free -= share
            if probs[best] + free < min_probability:
                return np.int32(-1), np.float32(0.0)
            if free <= unread:
                break
        if free <= unread:
            break
    if size == 0 or probs[best] < min_probability:
        return np.int32(-1), np.float32(0.0)
    return ids[best], min(probs[best], np.float32(1.0))


@jit
def em_update(layers, orders, shares, seen, contexts, chosen, least_step, prior_count):
    """Move each share toward the posterior that its slot, and not those it precedes, produced the chosen token.

    What it learns into is the `shares` and `seen` of `InterpolationWeights`: from the target's choice, int32 (r,),
    after each context, int32 (r, c), before the tables do. Rows with a choice of -1 are left out.
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
                total, cell = _slot_stats(counts[slot], weights[slot], orders[j])
                if total <= 0.0:
                    continue
                weight = np.float32(0.0)
                for i in range(successors.shape[1]):
                    if successors[slot, i] == chosen[r]:
                        weight = weights[slot, i]
                share = shares[n, j, cell]
                mine = share * weight / total
                both = mine + (np.float32(1.0) - share) * below
                seen[n, j, cell] += np.float32(1.0)
                step = max(np.float32(1.0) / (seen[n, j, cell] + prior_count), least_step)
                moved = share + step * (mine / both - share)
                shares[n, j, cell] = min(max(moved, np.float32(0.01)), np.float32(0.995))
                below = both


class InterpolationWeights:
    """How much of the free probability mass a slot may take, learned from what the target then chose.

    A cell holds the slots of one layer and context length that were seen about as often and are about as sure. Its
    share starts at n / (n + prior strength), n the observations typical of the cell, and follows the mean posterior
    that the slot was the one to explain the target's choice: one step of expectation-maximisation a token (Jelinek
    and Mercer's interpolation, 1980, made online).

    Args:
        orders: context lengths, ascending.
        layers: layers of memory.
        prior_strength: for each order, how many observations it takes to be believed half; 0 believes all at once.
    """

    # The least step of an update, and how many observations the start counts as.
    steps = (np.float32(0.002), np.float32(30.0))

    def __init__(self, orders: Sequence[int], layers: int, prior_strength: Sequence[float]) -> None:
        if len(prior_strength) != len(orders):
            raise ValueError(f"{len(orders)} orders need as many prior strengths, got {len(prior_strength)}")
        n = np.repeat(np.array(_TYPICAL_COUNTS), len(TOPS) + 1)
        start = n / (n + np.array(prior_strength, np.float64)[:, None])
        self.shares: NDArray[np.float32] = np.stack([start.astype(np.float32)] * layers)
        self.seen = np.zeros(self.shares.shape, np.float32)


class Interpolation:
    """Layers of memory read as one distribution, the most private first.

    Args:
        layers: tables over the same vocabulary.
        weights: the share each may take; the default believes a context seen once half.
    """

    def __init__(self, layers: Sequence[Representative | Corpus], weights: InterpolationWeights | None = None) -> None:
        orders = sorted({order for layer in layers for order in layer.orders})
        weights = weights or InterpolationWeights(orders, len(layers), [1.0] * len(orders))
        self._set([layer.arrays for layer in layers], np.asarray(orders, np.int64), weights)

    @classmethod
    def of(cls, tables: Sequence[Table], orders: NDArray[np.int64], weights: InterpolationWeights) -> Interpolation:
        """The same of bare tables with contexts of these lengths, int64 (n,) ascending."""
        made = cls.__new__(cls)
        made._set(tables, orders, weights)
        return made

    def _set(self, tables: Sequence[Table], orders: NDArray[np.int64], weights: InterpolationWeights) -> None:
        self.tables, self.orders, self.weights = tuple(tables), orders, weights
        self._plain = tuple(map(tuple, tables))
        if weights.shares.shape != (len(tables), len(orders), CELLS):
            raise ValueError("the weights were made for other layers or context lengths")

    @property
    def context_length(self) -> int:
        """Tokens of context a lookup can use."""
        return int(self.orders[-1])

    @property
    def lookup_args(self) -> tuple[Any, NDArray[np.int64], NDArray[np.float32]]:
        """What `interpolate` reads, for compiled code; plain tuples are handed over faster than named ones."""
        return self._plain, self.orders, self.weights.shares

    def predict(self, context: Sequence[int] | NDArray[np.int32]) -> list[tuple[int, float]]:
        """(token, probability) after `context`, likeliest first; empty for a context never seen."""
        keys = np.zeros(self.context_length + 1, np.uint64)
        ids = np.zeros(MAX_CANDIDATES, np.int32)
        probs = np.zeros(MAX_CANDIDATES, np.float32)
        slots = np.empty((len(self.orders), len(self.tables)), np.int64)
        look_up(self.tables, self.orders, np.asarray(context, np.int32), keys, slots)
        n = interpolate(*self.lookup_args, slots, ids, probs)
        return sorted(zip(ids[:n].tolist(), probs[:n].tolist(), strict=True), key=lambda pair: -pair[1])
