"""Compiled inner loops of the representative: find a context, learn what followed it.

The table is set-associative: a 64-bit context hash picks a bucket of `WAYS` slots and is stored whole as the slot's
key, so a wrong context answers with probability about 2**-60. A full bucket gives up the slot touched longest ago.
Every loop here runs while the interpreter lock is held, so a call is one atomic step to other threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["WAYS", "bucket", "context_keys", "find", "jit", "learn", "merge", "strengthen"]

WAYS = 4

# Any: a type checker cannot follow compiled signatures.
jit: Any = numba.njit(cache=True)


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
    """The slot of `key`, or -1. No branch hangs on the keys, so that the memory fetches of several calls overlap."""
    start = bucket(key, len(table_keys))
    found: Any = np.int64(-1)
    for slot in range(start, start + WAYS):
        if table_keys[slot] == key:
            found = slot
    return found if key != 0 else np.int64(-1)


@jit
def _claim(table_keys, stamps, counts, successors, weights, key):
    """The slot of `key`; an unknown key takes an empty slot or the bucket's least recently touched one."""
    start = bucket(key, len(table_keys))
    victim = start
    for slot in range(start, start + WAYS):
        if table_keys[slot] == key:
            return slot
        if table_keys[victim] == 0:
            continue
        if table_keys[slot] == 0 or stamps[slot] < stamps[victim]:
            victim = slot
    table_keys[victim] = key
    counts[victim] = 0.0
    successors[victim] = -1
    weights[victim] = 0.0
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
def learn(table_keys, stamps, counts, successors, weights, orders, contexts, ids, probs, clock, floor):
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
            slot = _claim(table_keys, stamps, counts, successors, weights, key)
            stamps[slot] = clock
            counts[slot] += np.float32(1.0)
            step = max(np.float32(1.0) / counts[slot], np.float32(floor))
            weights[slot] *= np.float32(1.0) - step
            for i in range(ids.shape[1]):
                if ids[r, i] >= 0:
                    _put(successors[slot], weights[slot], ids[r, i], step * probs[r, i])


@jit
def strengthen(table_keys, stamps, counts, successors, weights, orders, contexts, tokens, clock, gain, cap):
    """The paper's update: add `gain` to each (context, token) seen, at most up to `cap`."""
    keys = np.zeros(orders[-1] + 1, np.uint64)
    for r in range(len(contexts)):
        context_keys(contexts[r], keys)
        for order in orders:
            if keys[order] == 0:
                continue
            slot = _claim(table_keys, stamps, counts, successors, weights, keys[order])
            stamps[slot] = clock
            counts[slot] += np.float32(1.0)
            _put(successors[slot], weights[slot], tokens[r], np.float32(gain))
            for i in range(successors.shape[1]):
                weights[slot, i] = min(weights[slot, i], np.float32(cap))


@jit
def merge(table_keys, stamps, counts, successors, weights, other_keys, other_stamps, other_counts, other_succ, other_w):
    """Fold another table in, each context's successors averaged by the two observation counts."""
    for source in range(len(other_keys)):
        if other_keys[source] == 0:
            continue
        slot = _claim(table_keys, stamps, counts, successors, weights, other_keys[source])
        total = counts[slot] + other_counts[source]
        share = other_counts[source] / total if total > 0 else np.float32(0.5)
        weights[slot] *= np.float32(1.0) - share
        for i in range(other_succ.shape[1]):
            if other_w[source, i] > 0.0:
                _put(successors[slot], weights[slot], other_succ[source, i], share * other_w[source, i])
        counts[slot] = total
        stamps[slot] = max(stamps[slot], other_stamps[source])
