"""The likeliest chain of each of many sequences, all in one compiled call.

A server drafts for hundreds of sequences between two passes of a few milliseconds each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aded.batch import Chains
from aded.kernels.jit import jit
from aded.kernels.prefetch import prefetch
from aded.representative.interpolation import MAX_CANDIDATES, best_token
from aded.representative.lookup import Table, bucket, context_keys, find_in_bucket

_UNREAD = np.float32(0.05)  # of the mass may stay unread: it takes time, and the likeliest token is hardly among it


# The model's pass has left nothing of the tables in the caches. So each stage goes through all sequences, and has
# fetched what the next one reads.
@jit
def _fetch_buckets(layers, sizes, orders, going, sequences, keys, starts):
    """Where each layer can keep each context of `keys`, into `starts`, int64 (sequences, orders, layers)."""
    for r in going:
        for n in range(len(layers)):
            table_keys, _, _, _, _ = layers[n]
            first = sequences[r] * sizes[n] if n == 0 else 0
            for j in range(len(orders)):
                start = first + bucket(keys[r, orders[j]], sizes[n])
                prefetch(table_keys, start)
                starts[r, j, n] = start


@jit
def _find_and_fetch(layers, orders, going, keys, slots):
    """Where each layer keeps them, in place of where it can; -1 for nowhere."""
    for r in going:
        for n in range(len(layers)):
            table_keys, _, counts, successors, weights = layers[n]
            for j in range(len(orders)):
                slot = find_in_bucket(table_keys, slots[r, j, n], keys[r, orders[j]])
                if slot >= 0:
                    prefetch(counts, slot)
                    prefetch(successors, slot)
                    prefetch(weights, slot)
                slots[r, j, n] = slot


@jit
def _search(layers, sizes, orders, shares, sequences, recent, max_length, min_probability, ids, paths):
    width, count = orders[-1], len(sequences)
    paths[:] = 0.0
    keys = np.zeros((count, width + 1), np.uint64)
    slots = np.empty((count, len(orders), len(layers)), np.int64)
    tokens = np.empty((count, width + ids.shape[1]), np.int32)
    for r in range(count):
        tokens[r, :width] = recent[sequences[r], recent.shape[1] - width :]
    candidates = np.empty(MAX_CANDIDATES, np.int32)
    probs = np.empty(MAX_CANDIDATES, np.float32)
    going: Any = np.arange(count)
    for depth in range(ids.shape[1]):
        for r in going:
            context_keys(tokens[r, depth : depth + width], keys[r])
        _fetch_buckets(layers, sizes, orders, going, sequences, keys, slots)
        _find_and_fetch(layers, orders, going, keys, slots)
        still = 0
        for r in going:
            if depth >= max_length[r]:
                continue
            before = paths[r, depth - 1] if depth > 0 else np.float32(1.0)
            least = min_probability / before
            token, prob = best_token(layers, orders, shares, slots[r], candidates, probs, least, _UNREAD)
            if token < 0:
                continue
            ids[r, depth] = token
            paths[r, depth] = before * prob
            tokens[r, width + depth] = token
            going[still] = r
            still += 1
        going = going[:still]


class ChainTables(NamedTuple):
    """What a search reads, for all of its calls.

    Attributes:
        layers: tables as plain tuples, which are handed over faster than named ones. The first is the pool, as one
            long table: to take each sequence's own out of it for every lookup costs a fifth of the search.
        sizes: slots of each of them, of one sequence in the pool, int64 (layers,).
        orders: context lengths of all of them, int64 (orders,).
    """

    layers: tuple[Any, ...]
    sizes: NDArray[np.int64]
    orders: NDArray[np.int64]

    @classmethod
    def of(cls, pool: Table, shared: Sequence[Table], orders: NDArray[np.int64]) -> ChainTables:
        """The sequences' own tables, then those read by all."""
        own = tuple(array.reshape(-1, *array.shape[2:]) for array in pool)
        sizes = np.array([pool.keys.shape[1], *(len(table.keys) for table in shared)], np.int64)
        return cls((own, *map(tuple, shared)), sizes, orders)


def likeliest_chains(
    tables: ChainTables,
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
        tables: to read.
        shares: the interpolation's weights.
        sequences: which ones to continue, int64 (r,).
        recent: last tokens of every sequence of the pool, int32 (sequences, w), latest last, -1 before the first.
        max_length: most tokens of each chain, int64 (r,).
        longest: most tokens of any chain.
        min_probability: a chain ends before its path is less likely.
    """
    ids, paths = np.zeros((len(sequences), longest), np.int32), np.empty((len(sequences), longest), np.float32)
    _search(*tables, shares, sequences, recent, max_length, np.float32(min_probability), ids, paths)
    return Chains(ids, paths)
