"""Compiled inner loops of the representative: find a context, learn what followed it.

The table is set-associative: a 64-bit context hash picks a bucket of `WAYS` slots and is stored whole as the slot's
key, so a wrong context answers with probability about 2**-60. A full bucket gives up the slot touched longest ago.
Every loop here runs while the interpreter lock is held, so a call is one atomic step to other threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aded.kernels.jit import jit

WAYS = 4


class Table(NamedTuple):
    """A table as compiled code sees it; with one more dimension in front, the tables of several sequences.

    Attributes:
        keys: uint64, (slots,): hash of the context in each slot; 0 is an empty one.
        stamps: uint32, (slots,): the clock when it was last learned.
        counts: float32, (slots,): how often it was seen.
        successors: int32, (slots, n): tokens that followed.
        weights: float32, (slots, n): their probabilities; 0 where there is none.
    """

    keys: NDArray[np.uint64]
    stamps: NDArray[np.uint32]
    counts: NDArray[np.float32]
    successors: NDArray[np.int32]
    weights: NDArray[np.float32]

    @classmethod
    def empty(cls, memory_mb: float, successors: int, *sequences: int) -> Table:
        """A table in `memory_mb` MiB, or one for each of `sequences`; the system takes the memory as it is used.

        Raises:
            ValueError: not one bucket fits.
        """
        slots = slots_in(memory_mb, successors)
        return cls(
            np.zeros((*sequences, slots), np.uint64),
            np.zeros((*sequences, slots), np.uint32),
            np.zeros((*sequences, slots), np.float32),
            np.zeros((*sequences, slots, successors), np.int32),
            np.zeros((*sequences, slots, successors), np.float32),
        )

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(array.nbytes for array in self)


def slots_in(memory_mb: float, successors: int) -> int:
    """Slots of a table in `memory_mb` MiB.

    Raises:
        ValueError: not one bucket fits.
    """
    slot_bytes = 8 + 4 + 4 + successors * 8
    slots = int(memory_mb * 2**20) // (slot_bytes * WAYS) * WAYS
    if slots < WAYS or successors < 1:
        raise ValueError(f"memory_mb={memory_mb} holds no table with {successors} successors a context")
    return slots


@jit
def table_of_slot(pool, slot):
    """The table of one sequence among several."""
    return Table(pool.keys[slot], pool.stamps[slot], pool.counts[slot], pool.successors[slot], pool.weights[slot])


@jit
def context_keys(context, keys):
    """Hash the suffixes of `context` (int32, latest token last; -1 ends it): keys[j] names its last j tokens.

    Keys are 0 where the context is too short. The mixing step is the finaliser of SplitMix64 (Steele et al., 2014).
    """
    h = np.uint64(0x9E3779B97F4A7C15)
    length = len(context)
    keys[:] = 0
    keys[0] = h
    for j in range(1, len(keys)):
        if j > length or context[length - j] < 0:
            return
        h = (h ^ np.uint64(context[length - j] + 1)) * np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(29)
        h *= np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(32)
        keys[j] = h | np.uint64(1)


@jit
def bucket(key, slots):
    """The first of the `WAYS` slots in which `key` can be."""
    buckets = np.uint64(slots // WAYS)
    return np.int64(((key >> np.uint64(32)) * buckets) >> np.uint64(32)) * WAYS


@jit
def find(table_keys, key):
    """The slot of `key`, or -1."""
    return find_in_bucket(table_keys, bucket(key, len(table_keys)), key)


@jit
def find_in_bucket(table_keys, start, key):
    """The same in a known bucket. No branch hangs on the keys, so that the memory fetches of several calls overlap."""
    found: Any = np.int64(-1)
    for slot in range(start, start + WAYS):
        if table_keys[slot] == key:
            found = slot
    return found if key != 0 else np.int64(-1)


@jit
def _claim(table, key):
    """The slot of `key`; an unknown key takes an empty slot or the bucket's least recently touched one."""
    start = bucket(key, len(table.keys))
    victim = start
    for slot in range(start, start + WAYS):
        if table.keys[slot] == key:
            return slot
        if table.keys[victim] == 0:
            continue
        if table.keys[slot] == 0 or table.stamps[slot] < table.stamps[victim]:
            victim = slot
    table.keys[victim] = key
    table.counts[victim] = 0.0
    table.successors[victim] = -1
    table.weights[victim] = 0.0
    return victim


@jit
def _put(successors, weights, token, gain):
    """Add `gain` to `token` in one slot; a new token replaces the weakest one if it is stronger."""
    weakest = 0
    for i in range(len(successors)):
        if successors[i] == token:
            weights[i] += gain
            return
        if weights[i] < weights[weakest]:
            weakest = i
    if gain > weights[weakest]:
        successors[weakest] = token
        weights[weakest] = gain


@jit
def learn(table, orders, contexts, ids, probs, clock, floor):
    """Move each context's successors toward an observed distribution.

    contexts: int32 (r, c), latest token last, -1 where there is none. ids int32 (r, k) and probs float32 (r, k):
    what followed; a row that begins with -1 was not scored. The step is a running mean that never forgets slower
    than `floor`: w <- (1 - a) w + a p with a = max(1 / n, floor), n the context's observations.
    """
    keys = np.zeros(orders[-1] + 1, np.uint64)
    for r in range(len(contexts)):
        if ids[r, 0] < 0:
            continue
        context_keys(contexts[r], keys)
        for order in orders:
            key = keys[order]
            if key == 0:
                continue
            slot = _claim(table, key)
            table.stamps[slot] = clock
            table.counts[slot] += np.float32(1.0)
            step = max(np.float32(1.0) / table.counts[slot], np.float32(floor))
            table.weights[slot] *= np.float32(1.0) - step
            for i in range(ids.shape[1]):
                if ids[r, i] >= 0:
                    _put(table.successors[slot], table.weights[slot], ids[r, i], step * probs[r, i])


@jit
def strengthen(table, orders, contexts, tokens, clock, gain, cap):
    """The paper's update: add `gain` to each (context, token) seen, at most up to `cap`."""
    keys = np.zeros(orders[-1] + 1, np.uint64)
    for r in range(len(contexts)):
        context_keys(contexts[r], keys)
        for order in orders:
            if keys[order] == 0:
                continue
            slot = _claim(table, keys[order])
            table.stamps[slot] = clock
            table.counts[slot] += np.float32(1.0)
            _put(table.successors[slot], table.weights[slot], tokens[r], np.float32(gain))
            for i in range(table.successors.shape[1]):
                table.weights[slot, i] = min(table.weights[slot, i], np.float32(cap))


@jit
def merge(table, other):
    """Fold another table in, each context's successors averaged by the two observation counts."""
    for source in range(len(other.keys)):
        if other.keys[source] == 0:
            continue
        slot = _claim(table, other.keys[source])
        total = table.counts[slot] + other.counts[source]
        share = other.counts[source] / total if total > 0 else np.float32(0.5)
        table.weights[slot] *= np.float32(1.0) - share
        for i in range(other.successors.shape[1]):
            if other.weights[source, i] > 0.0:
                _put(
                    table.successors[slot],
                    table.weights[slot],
                    other.successors[source, i],
                    share * other.weights[source, i],
                )
        table.counts[slot] = total
        table.stamps[slot] = max(table.stamps[slot], other.stamps[source])
