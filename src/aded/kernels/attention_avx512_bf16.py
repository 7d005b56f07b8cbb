"""bfloat16 attention whose result for a query depends on that query and what it sees, in order, and on nothing else.

Not on other queries, on where siblings lie, on padding or on threads. The arithmetic is that of torch's own kernel for
one query (`scaled_dot_product_attention` on CPUs with AVX-512 BF16), so that the bits are its bits: keys in blocks of
512 with a running maximum; scores in four float32 sums by index modulo 4; the weights' exponential by a polynomial for
whole groups of 16 keys and by the C library for the rest of a block; values in groups of four keys.

Queries that share keys are computed together, up to `QUERIES` at a time, each in sums of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types

from aded.kernels.gemm_bf16 import narrow, widen
from aded.kernels.jit import jit, jit_with
from aded.kernels.openmp import call, compile_time, pointer
from aded.kernels.vectors import (
    F32,
    FLOATS,
    I16,
    I32,
    I64,
    LANES,
    every,
    exponential,
    intrinsic,
    load,
    loop,
    pick,
    rounded,
    store,
    widened,
)

QUERIES = 8  # computed together: 8 sums, 4 of keys or values, and what is made of them fit 32 registers
BLOCK = 512  # keys from one maximum to the next, as in the library
GROUP = 4  # keys computed together, as in the library's sums of values

_expf: Any = types.ExternalFunction("expf", types.float32(types.float32))


def _scores(queries: int) -> Any:
    """Scores of four keys with some queries."""

    @compile_time
    def scores(typing_context, q, keys, size, scale, out, out_stride):
        # q: float32 (queries, size). keys: int64 (4,), addresses of bfloat16 (size,). out: float32 (queries, 4).
        def generate(context, builder, signature, arguments):
            q, keys, size, scale, out, out_stride = arguments
            places = [load(builder, builder.add(keys, I64(8 * i)), I64, 8) for i in range(GROUP)]
            starts = [ir.Constant(FLOATS, [0.0] * LANES)] * queries
            index, sums, close = loop(builder, builder.udiv(size, I64(LANES)), starts)
            four = ir.VectorType(I64, GROUP)
            step = builder.mul(index, I64(2 * LANES))
            rows = [load(builder, builder.add(place, step), four, 2) for place in places]
            results = list(sums)
            for t in range(GROUP):  # the next four elements of each key, side by side
                pairs = [pick(builder, rows[i], rows[i + 1], [t, GROUP + t]) for i in (0, 2)]
                words = builder.bitcast(pick(builder, pairs[0], pairs[1], range(GROUP)), ir.VectorType(I16, LANES))
                key = widened(builder, words)
                for i in range(queries):
                    at = builder.add(q, builder.mul(builder.mul(size, I64(4)), I64(i)))
                    at = builder.add(at, builder.add(builder.mul(step, I64(2)), I64(16 * t)))
                    part = load(builder, at, ir.VectorType(F32, GROUP), 4)
                    query = pick(builder, part, part, list(range(GROUP)) * 4)
                    results[i] = intrinsic(builder, "fma", key, query, results[i])
            close(results)
            for i, x in enumerate(results):
                x = builder.fadd(x, pick(builder, x, x, [lane ^ 2 for lane in range(LANES)]))
                x = builder.fadd(x, pick(builder, x, x, [lane ^ 1 for lane in range(LANES)]))
                x = builder.fmul(x, every(builder, scale))
                store(
                    builder,
                    pick(builder, x, x, range(0, LANES, 4)),
                    builder.add(out, builder.mul(out_stride, I64(i))),
                )
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3, types.float32, types.int64, types.int64), generate

    return scores


def _values(queries: int) -> Any:
    """Add the weighted values of groups of four keys, 16 columns of them, to some queries' sums."""

    @compile_time
    def values(typing_context, places, column, groups, weights, weights_stride, sums, sums_stride):
        # places: int64 (4 x groups,), addresses of bfloat16 rows; column: bytes from there; the others are float32.
        def generate(context, builder, signature, arguments):
            places, column, groups, weights, weights_stride, sums, sums_stride = arguments
            rows = [builder.add(sums, builder.mul(sums_stride, I64(i))) for i in range(queries)]
            index, added, close = loop(builder, groups, [load(builder, row, FLOATS, 4) for row in rows])
            four = []
            for i in range(GROUP):
                entry = builder.add(builder.mul(index, I64(8 * GROUP)), I64(8 * i))
                place = builder.add(load(builder, builder.add(places, entry), I64, 8), column)
                four.append(widened(builder, load(builder, place, ir.VectorType(I16, LANES), 2)))
            results = []
            for i in range(queries):
                at = builder.add(builder.add(weights, builder.mul(weights_stride, I64(i))), builder.mul(index, I64(16)))
                p = [every(builder, load(builder, builder.add(at, I64(4 * j)), F32, 4)) for j in range(GROUP)]
                even = intrinsic(builder, "fma", p[2], four[2], builder.fmul(p[0], four[0]))
                odd = intrinsic(builder, "fma", p[3], four[3], builder.fmul(p[1], four[1]))
                results.append(builder.fadd(added[i], builder.fadd(even, odd)))
            close(results)
            for row, result in zip(rows, results, strict=True):
                store(builder, result, row)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return values


@compile_time
def _add_value(typing_context, place, weight, sums):
    """Add one key's weighted values, 16 columns of them."""

    def generate(context, builder, signature, arguments):
        place, weight, sums = arguments
        value = widened(builder, load(builder, place, ir.VectorType(I16, LANES), 2))
        before = load(builder, sums, FLOATS, 4)
        store(builder, intrinsic(builder, "fma", every(builder, weight), value, before), sums)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), generate


@compile_time
def _fma(typing_context, a, b, c):
    """a * b + c, rounded once."""
    return types.float32(*[types.float32] * 3), lambda context, builder, _, values: intrinsic(builder, "fma", *values)


@compile_time
def _highest(typing_context, scores, groups):
    """The highest of 16 x groups scores."""

    def generate(context, builder, signature, arguments):
        scores, groups = arguments
        index, (top,), close = loop(builder, groups, [ir.Constant(FLOATS, [float("-inf")] * LANES)])
        x = load(builder, builder.add(scores, builder.mul(index, I64(64))), FLOATS, 4)
        result = builder.select(builder.fcmp_ordered(">", x, top), x, top)
        close([result])
        for width in (8, 4, 2, 1):
            other = pick(builder, result, result, [lane ^ width for lane in range(LANES)])
            result = builder.select(builder.fcmp_ordered(">", other, result), other, result)
        return builder.extract_element(result, I32(0))

    return types.float32(types.int64, types.int64), generate


@compile_time
def _weigh(typing_context, scores, groups, top):
    """Make 16 x groups scores weights, rounded to bfloat16; their sum before that."""

    def generate(context, builder, signature, arguments):
        scores, groups, top = arguments
        # Every second group is summed apart, as in the library.
        index, (mine, others), close = loop(builder, groups, [ir.Constant(FLOATS, [0.0] * LANES)] * 2)
        place = builder.add(scores, builder.mul(index, I64(64)))
        weight = exponential(builder, builder.fsub(load(builder, place, FLOATS, 4), every(builder, top)))
        store(builder, rounded(builder, weight), place)
        added = builder.fadd(mine, weight)
        close([others, added])
        result = builder.fadd(others, added)
        for width in (8, 4, 2, 1):
            result = builder.fadd(result, pick(builder, result, result, [(x + width) % LANES for x in range(LANES)]))
        return builder.extract_element(result, I32(0))

    return types.float32(types.int64, types.int64, types.float32), generate


_s1, _s2, _s3, _s4, _s5, _s6, _s7, _s8 = map(_scores, range(1, QUERIES + 1))
_v1, _v2, _v3, _v4, _v5, _v6, _v7, _v8 = map(_values, range(1, QUERIES + 1))


@jit
def _any_scores(queries, q, keys, size, scale, out, out_stride):
    if queries == 8:
        _s8(q, keys, size, scale, out, out_stride)
    elif queries == 7:
        _s7(q, keys, size, scale, out, out_stride)
    elif queries == 6:
        _s6(q, keys, size, scale, out, out_stride)
    elif queries == 5:
        _s5(q, keys, size, scale, out, out_stride)
    elif queries == 4:
        _s4(q, keys, size, scale, out, out_stride)
    elif queries == 3:
        _s3(q, keys, size, scale, out, out_stride)
    elif queries == 2:
        _s2(q, keys, size, scale, out, out_stride)
    else:
        _s1(q, keys, size, scale, out, out_stride)


@jit
def _any_values(queries, places, column, groups, weights, weights_stride, sums, sums_stride):
    if queries == 8:
        _v8(places, column, groups, weights, weights_stride, sums, sums_stride)
    elif queries == 7:
        _v7(places, column, groups, weights, weights_stride, sums, sums_stride)
    elif queries == 6:
        _v6(places, column, groups, weights, weights_stride, sums, sums_stride)
    elif queries == 5:
        _v5(places, column, groups, weights, weights_stride, sums, sums_stride)
    elif queries == 4:
        _v4(places, column, groups, weights, weights_stride, sums, sums_stride)
    elif queries == 3:
        _v3(places, column, groups, weights, weights_stride, sums, sums_stride)
    elif queries == 2:
        _v2(places, column, groups, weights, weights_stride, sums, sums_stride)
    else:
        _v1(places, column, groups, weights, weights_stride, sums, sums_stride)


@jit_with(error_model="numpy")
def _softmax(scores, address, n, top, total, sums, first):
    """One block's scores become weights, in place; (maximum, sum of weights) so far, and `sums` on that scale."""
    groups = n // LANES
    highest = max(top, _highest(address, groups)) if groups else top
    for j in range(groups * LANES, n):
        highest = max(highest, scores[j])
    part = _weigh(address, groups, highest) if groups else np.float32(0.0)
    for j in range(groups * LANES, n):
        weight = _expf(scores[j] - highest)
        part = part + weight
        scores[j] = widen(narrow(weight))
    if first:
        return highest, part
    rescaled = _expf(top - highest)
    for c in range(len(sums)):
        sums[c] *= rescaled
    return highest, _fma(rescaled, total, part)


@jit
def visible(mask):
    """What each query sees of a mask, bool (rows, tokens, keys), in order.

    Returns:
        runs: int64 (rows, 2): the first column of the run that all queries of a row see first, and its length.
        counts: int64 (rows, tokens): columns that each sees.
        others: int64 (rows, tokens, most): those after the run.
    """
    rows, tokens, keys = mask.shape
    runs, counts = np.zeros((rows, 2), np.int64), np.zeros((rows, tokens), np.int64)
    for r in range(rows):
        begin, end = np.int64(-1), np.int64(keys)
        for t in range(tokens):
            first = np.int64(0)
            while first < keys and not mask[r, t, first]:
                first += 1
            stop = first
            while stop < keys and mask[r, t, stop]:
                stop += 1
            counts[r, t] = stop - first
            for j in range(stop, keys):
                counts[r, t] += mask[r, t, j]
            if begin >= 0 and first != begin:
                end = np.int64(-1)  # they begin at different places
            begin, end = first, min(end, stop)
        runs[r, 0], runs[r, 1] = begin, max(end - begin, 0)
    most = np.int64(1)
    for r in range(rows):
        for t in range(tokens):
            most = max(most, counts[r, t] - runs[r, 1])
    others = np.zeros((rows, tokens, most), np.int64)
    for r in range(rows):
        for t in range(tokens):
            seen: Any = np.int64(0)
            for j in range(keys):
                if mask[r, t, j]:
                    if seen >= runs[r, 1]:
                        others[r, t, seen - runs[r, 1]] = j
                    seen += 1
    return runs, counts, others


def share(arguments):
    """One thread's share: out (rows, tokens, heads, size), bfloat16.

    Arguments: rows, heads, key/value heads, tokens, size (a multiple of 16); the bits of the float32 scale; the
    addresses of q, k, v and out; strides in bytes of q (row, head, token), of k and of v (row, head, key); the
    addresses of what `visible` returns, and how many `others` there are; the two functions of `Parallel`.
    """
    rows, heads, kv_heads, tokens, size = arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]
    scale = np.int32(arguments[5]).view(np.float32)
    q, k, v = arguments[6], arguments[7], arguments[8]
    group = heads // kv_heads
    per = group * tokens  # queries of a key/value head
    out = carray(pointer(arguments[9]), (rows * tokens * heads, size))
    k_key, v_key = arguments[15], arguments[18]
    most = arguments[22]
    runs = carray(pointer(arguments[19]), (rows * 2 * 4,)).view(np.int64).reshape((rows, 2))
    counts = carray(pointer(arguments[20]), (rows * tokens * 4,)).view(np.int64).reshape((rows, tokens))
    others = carray(pointer(arguments[21]), (rows * tokens * most * 4,)).view(np.int64).reshape((rows, tokens, most))
    thread, threads = np.int64(call(arguments[23])), np.int64(call(arguments[24]))
    unit, end = rows * kv_heads * per * thread // threads, rows * kv_heads * per * (thread + 1) // threads
    queries, sums = np.empty((QUERIES, size), np.float32), np.empty((QUERIES, size), np.float32)
    scores = np.empty((QUERIES, BLOCK), np.float32)
    key_at, value_at = np.empty(BLOCK + GROUP, np.int64), np.empty(BLOCK + GROUP, np.int64)
    top, total = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
    token_of, row_of = np.empty(QUERIES, np.int64), np.empty(QUERIES, np.int64)
    keys, places, weights, added = key_at.ctypes.data, value_at.ctypes.data, scores.ctypes.data, sums.ctypes.data
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
            bits = carray(pointer(q + row * arguments[10] + mine * arguments[11] + token * arguments[12]), (size,))
            for c in range(size):
                queries[i, c] = widen(bits[c])
        sums[:many] = np.float32(0.0)
        top[:many] = np.float32(-np.inf)
        total[:many] = np.float32(1.0)  # nothing is divided by 0 where a query sees nothing
        start, length = runs[row, 0], runs[row, 1]
        for first in range(0, longest, BLOCK):
            shared = min(max(length - first, np.int64(0)), np.int64(BLOCK)) // GROUP * GROUP
            for j in range(shared):
                key_at[j] = k_head + (start + first + j) * k_key
            for j in range(0, shared, GROUP):
                _any_scores(many, queries.ctypes.data, keys + 8 * j, size, scale, weights + 4 * j, np.int64(4 * BLOCK))
            for i in range(many):
                n = min(counts[row, token_of[i]] - first, np.int64(BLOCK))
                if n <= 0:
                    continue
                for j in range(shared, n):
                    at = first + j
                    column = start + at if at < length else others[row, token_of[i], at - length]
                    key_at[j] = k_head + column * k_key
                for j in range(n, n + GROUP):
                    key_at[j] = key_at[n - 1]
                for j in range(shared, n, GROUP):
                    _s1(queries[i].ctypes.data, keys + 8 * j, size, scale, weights + 4 * (BLOCK * i + j), np.int64(0))
                found = _softmax(scores[i], weights + 4 * BLOCK * i, n, top[i], total[i], sums[i], first == 0)
                top[i], total[i] = found
            for j in range(shared):
                value_at[j] = v_head + (start + first + j) * v_key
            if shared:
                for c in range(0, size, LANES):
                    groups = shared // GROUP
                    _any_values(many, places, 2 * c, groups, weights, np.int64(4 * BLOCK), added + 4 * c, 4 * size)
            for i in range(many):
                n = min(counts[row, token_of[i]] - first, np.int64(BLOCK))
                if n <= shared:
                    continue
                for j in range(shared, n):
                    at = first + j
                    column = start + at if at < length else others[row, token_of[i], at - length]
                    value_at[j] = v_head + column * v_key
                groups = (n - shared) // GROUP
                for c in range(0, size, LANES):
                    own, to = weights + 4 * (BLOCK * i + shared), added + 4 * (size * i + c)
                    if groups:
                        _v1(places + 8 * shared, 2 * c, groups, own, np.int64(0), to, np.int64(0))
                    for j in range(n - 1, shared + groups * GROUP - 1, -1):  # the rest of a block from its end
                        _add_value(value_at[j] + 2 * c, scores[i, j], to)
        for i in range(many):
            factor = np.float32(1.0) / total[i]
            for c in range(size):
                out[row_of[i], c] = narrow(sums[i, c] * factor)
        unit += many
