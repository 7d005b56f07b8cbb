"""The likeliest chain of each of many sequences, all in one compiled call.

A server drafts for hundreds of sequences between two passes of a few milliseconds each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.batch import Chains
from aded.kernels.jit import jit
from aded.kernels.prefetch import prefetch
from aded.representative.interpolation import MAX_CANDIDATES, best_token, find_all
from aded.representative.lookup import Table, bucket, context_keys, table_of_slot

_UNREAD = np.float32(0.05)  # of the mass may stay unread: it takes time, and the likeliest token is hardly among it


@jit
def _fetch_buckets(layers, orders, keys):
    for n in range(len(layers)):
        for order in orders:
            prefetch(layers[n].keys, bucket(keys[order], len(layers[n].keys)))


@jit
def _find_and_fetch(layers, orders, keys, slots):
    find_all(layers, orders, keys, slots)
    for n in range(len(layers)):
        table = layers[n]
        for j in range(len(orders)):
            if slots[j, n] >= 0:
                prefetch(table.counts, slots[j, n])
                prefetch(table.successors, slots[j, n])
                prefetch(table.weights, slots[j, n])


@jit
def _search(pool, shared, orders, shares, sequences, recent, max_length, min_probability, ids, paths):
    width, count = orders[-1], len(sequences)
    paths[:] = 0.0
    keys = np.zeros((count, width + 1), np.uint64)
    slots = np.empty((count, len(orders), 1 + len(shared)), np.int64)
    tokens = np.empty((count, width + ids.shape[1]), np.int32)
    for r in range(count):
        tokens[r, :width] = recent[sequences[r], recent.shape[1] - width :]
    candidates = np.empty(MAX_CANDIDATES, np.int32)
    probs = np.empty(MAX_CANDIDATES, np.float32)
    going: Any = np.arange(count)
    for depth in range(ids.shape[1]):
        # The model's pass has left nothing of the tables in the caches. So each stage goes through all sequences, and
        # has fetched what the next one reads.
        for r in going:
            context_keys(tokens[r, depth : depth + width], keys[r])
            _fetch_buckets((table_of_slot(pool, sequences[r]), *shared), orders, keys[r])
        for r in going:
            _find_and_fetch((table_of_slot(pool, sequences[r]), *shared), orders, keys[r], slots[r])
        still = 0
        for r in going:
            if depth >= max_length[r]:
                continue
            before = paths[r, depth - 1] if depth > 0 else np.float32(1.0)
            layers, least = (table_of_slot(pool, sequences[r]), *shared), min_probability / before
            token, prob = best_token(layers, orders, shares, slots[r], candidates, probs, least, _UNREAD)
            if token < 0:
                continue
            ids[r, depth] = token
            paths[r, depth] = before * prob
            tokens[r, width + depth] = token
            going[still] = r
            still += 1
        going = going[:still]


def likeliest_chains(
    pool: Table,
    shared: tuple[Table, ...],
    orders: NDArray[np.int64],
    shares: NDArray[np.float32],
    sequences: NDArray[np.int64],
    recent: NDArray[np.int32],
    max_length: NDArray[np.int64],
    *,
    longest: int,
    min_probability: float,
) -> Chains:
    """The continuation of each sequence, token by token the likeliest one.

    Args:
        pool: the sequences' own tables.
        shared: tables read by all, after their own.
        orders: context lengths of all of them, int64 (orders,).
        shares: the interpolation's weights.
        sequences: which ones to continue, int64 (r,).
        recent: last tokens of every sequence of the pool, int32 (sequences, w), latest last, -1 before the first.
        max_length: most tokens of each chain, int64 (r,).
        longest: most tokens of any chain.
        min_probability: a chain ends before its path is less likely.
    """
    ids, paths = np.zeros((len(sequences), longest), np.int32), np.empty((len(sequences), longest), np.float32)
    lookup: tuple[Any, ...] = (pool, shared, orders, shares)
    _search(*lookup, sequences, recent, max_length, np.float32(min_probability), ids, paths)
    return Chains(ids, paths)
