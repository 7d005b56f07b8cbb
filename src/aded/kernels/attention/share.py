"""One thread's share of a step's attention."""

from __future__ import annotations

import numpy as np
from numba import carray

from aded.kernels.attention import floats, fours, pairs
from aded.kernels.attention.softmax import softmax, softmax_f32
from aded.kernels.gemm_bf16 import narrow, widen
from aded.kernels.jit import jit
from aded.kernels.openmp import call, pointer
from aded.kernels.vectors import LANES

# Three orders of the library's for bfloat16, the last of which is the first with vectors of eight; one of our own for
# float32.
FOURS, PAIRS, FLOATS, EIGHTS = 0, 1, 2, 3

BLOCK = 512  # keys from one maximum to the next, as in the library
QUERIES = fours.QUERIES
_FOUR = fours.GROUP
_GROUP = pairs.GROUP  # a multiple of the other
_INPUTS = pairs.INPUTS
_ROW = 4 * (BLOCK + _GROUP)  # bytes of one query's scores


@jit
def _any_scores(order, queries, q, keys, size, scale, out, out_stride):
    if order == PAIRS:
        pairs.any_scores(queries, q, keys, size, scale, out, out_stride)
    elif order == FLOATS:
        floats.any_scores(queries, q, keys, size, scale, out, out_stride)
    else:
        fours.any_scores(queries, q, keys, size, scale, out, out_stride)


@jit
def _shared_values(order, queries, places, n, scores, sums):
    """Add the weighted values of what all queries see to their sums; n is a multiple of a group."""
    for c in range(0, sums.shape[1], LANES):
        to = sums.ctypes.data + 4 * c
        if order == PAIRS:
            groups, weights = n // _GROUP, scores.ctypes.data
            pairs.any_values(queries, places.ctypes.data, 2 * c, groups, weights, _ROW, to, 4 * sums.shape[1])
        elif order == FLOATS:
            weights = scores.ctypes.data
            floats.any_values(queries, places.ctypes.data, 4 * c, n, weights, _ROW, to, 4 * sums.shape[1])
        else:
            groups, weights = n // _FOUR, scores.ctypes.data
            fours.any_values(queries, places.ctypes.data, 2 * c, groups, weights, _ROW, to, 4 * sums.shape[1])


@jit
def _own_values(order, places, n, scores, sums):
    """Add those of what one query alone sees of a block; in pairs, places and weights go on to a whole group."""
    for c in range(0, len(sums), LANES):
        to = sums.ctypes.data + 4 * c
        if order == PAIRS:
            groups = (n + _GROUP - 1) // _GROUP
            pairs.any_values(1, places.ctypes.data, 2 * c, groups, scores.ctypes.data, 0, to, 0)
            continue
        if order == FLOATS:
            floats.any_values(1, places.ctypes.data, 4 * c, n, scores.ctypes.data, 0, to, 0)
            continue
        groups = n // _FOUR
        if groups:
            fours.any_values(1, places.ctypes.data, 2 * c, groups, scores.ctypes.data, 0, to, 0)
        for j in range(n - 1, groups * _FOUR - 1, -1):  # the rest of a block from its end
            fours.add_value(places[j] + 2 * c, scores[j], to)


def share(arguments):
    """One thread's share: out (rows, tokens, heads, size), bfloat16 or float32.

    Arguments: rows, heads, key/value heads, tokens, size (a multiple of 16); the bits of the float32 scale; the
    addresses of q, k, v and out; strides in bytes of q (row, head, token), of k and of v (row, head, key); the
    addresses of what `visible` returns, and how many `others` there are; the order of summing, which tells the
    data type; the two functions of `Parallel`.
    """
    rows, heads, kv_heads, tokens, size = arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]
    scale = np.int32(arguments[5]).view(np.float32)
    q, k, v = arguments[6], arguments[7], arguments[8]
    group = heads // kv_heads
    per = group * tokens  # queries of a key/value head
    k_key, v_key = arguments[15], arguments[18]
    most, order = arguments[22], arguments[23]
    words = 2 if order == FLOATS else 1  # of 16 bits, in an element
    out = carray(pointer(arguments[9]), (rows * tokens * heads, words * size))
    out_f32 = out.view(np.float32)
    runs = carray(pointer(arguments[19]), (rows * 2 * 4,)).view(np.int64).reshape((rows, 2))
    counts = carray(pointer(arguments[20]), (rows * tokens * 4,)).view(np.int64).reshape((rows, tokens))
    others = carray(pointer(arguments[21]), (rows * tokens * most * 4,)).view(np.int64).reshape((rows, tokens, most))
    thread, threads = np.int64(call(arguments[24])), np.int64(call(arguments[25]))
    unit, end = rows * kv_heads * per * thread // threads, rows * kv_heads * per * (thread + 1) // threads
    wide = (size + _INPUTS - 1) // _INPUTS * _INPUTS
    queries = np.zeros((QUERIES, wide if order == PAIRS else size), np.float32)
    first_query, query_bytes = queries.ctypes.data, 4 * queries.shape[1]
    sums, nothing = np.empty((QUERIES, size), np.float32), np.zeros(size, np.uint16)
    scores = np.empty((QUERIES, BLOCK + _GROUP), np.float32)
    key_at, value_at = np.empty(BLOCK + _GROUP, np.int64), np.empty(BLOCK + _GROUP, np.int64)
    top, total = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
    token_of, row_of = np.empty(QUERIES, np.int64), np.empty(QUERIES, np.int64)
    columns = np.empty((QUERIES, BLOCK), np.int64)
    keys, weights = key_at.ctypes.data, scores.ctypes.data
    while unit < end:
        block = unit // per
        row, head = block // kv_heads, block % kv_heads
        many = min(np.int64(QUERIES), end - unit, (block + 1) * per - unit)
        k_head, v_head = k + row * arguments[13] + head * arguments[14], v + row * arguments[16] + head * arguments[17]
        longest = np.int64(0)
        for i in range(many):
            inner = unit + i - block * per
            token, mine = inner // group, head * group + inner % group
            token_of[i], row_of[i] = token, (row * tokens + token) * heads + mine
            longest = max(longest, counts[row, token])
            at = q + row * arguments[10] + mine * arguments[11] + token * arguments[12]
            bits = carray(pointer(at), (words * size,))
            if order == FLOATS:
                queries[i] = bits.view(np.float32)
            else:
                for c in range(size):
                    place = c // _INPUTS * _INPUTS + c % _INPUTS // 2 + (c + 1) % 2 * LANES if order == PAIRS else c
                    queries[i, place] = widen(bits[c])
        sums[:many] = np.float32(0.0)
        top[:many] = np.float32(-np.inf)
        total[:many] = np.float32(1.0)  # nothing is divided by 0 where a query sees nothing
        start, length = runs[row, 0], runs[row, 1]
        for first in range(0, longest, BLOCK):
            shared = min(max(length - first, np.int64(0)), np.int64(BLOCK)) // _GROUP * _GROUP
            for j in range(shared):
                key_at[j] = k_head + (start + first + j) * k_key
                value_at[j] = v_head + (start + first + j) * v_key
            for j in range(0, shared, _FOUR):
                _any_scores(order, many, first_query, keys + 8 * j, size, scale, weights + 4 * j, np.int64(_ROW))
            for i in range(many):
                n = min(counts[row, token_of[i]] - first, np.int64(BLOCK))
                if n <= 0:
                    continue
                for j in range(shared, n):
                    at = first + j
                    columns[i, j] = start + at if at < length else others[row, token_of[i], at - length]
                    key_at[j] = k_head + columns[i, j] * k_key
                for j in range(n, n + _FOUR):
                    key_at[j] = key_at[n - 1]
                for j in range(shared, n, _FOUR):
                    query = first_query + i * query_bytes
                    _any_scores(order, 1, query, keys + 8 * j, size, scale, weights + _ROW * i + 4 * j, np.int64(0))
                place = weights + _ROW * i
                if order == FLOATS:
                    found = softmax_f32(scores[i], place, n, top[i], total[i], sums[i], first == 0)
                else:
                    lanes = np.int64(8) if order == EIGHTS else np.int64(LANES)
                    found = softmax(scores[i], place, n, top[i], total[i], sums[i], first == 0, lanes)
                top[i], total[i] = found
                scores[i, n : n + _GROUP] = 0
            if shared:
                _shared_values(order, many, value_at, shared, scores, sums)
            for i in range(many):
                n = min(counts[row, token_of[i]] - first, np.int64(BLOCK))
                if n > shared:
                    for j in range(shared, n):
                        value_at[j] = v_head + columns[i, j] * v_key
                    value_at[n : n + _GROUP] = nothing.ctypes.data
                    _own_values(order, value_at[shared:], n - shared, scores[i, shared:], sums[i])
        for i in range(many):
            factor = np.float32(1.0) / total[i]
            for c in range(size):
                if order == FLOATS:
                    out_f32[row_of[i], c] = sums[i, c] * factor
                else:
                    out[row_of[i], c] = narrow(sums[i, c] * factor)
        unit += many
