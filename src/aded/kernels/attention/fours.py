"""Scores and weighted values in float32, as the matrix library sums them on processors that it knows no better way for.

A score is four sums of products, by index modulo 4; values are added in groups of four keys.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from aded.kernels.jit import jit
from aded.kernels.openmp import compile_time
from aded.kernels.vectors import (
    F32,
    FLOATS,
    HALVES,
    I64,
    LANES,
    ZERO,
    cases,
    every,
    intrinsic,
    load,
    loop,
    pick,
    store,
    widened,
)

QUERIES = 8  # computed together: 8 sums, 4 of keys or values, and what is made of them fit 32 registers
GROUP = 4  # keys computed together


def value_row(builder, places, column, row):
    """16 columns of the values at one of the places, bfloat16."""
    place = load(builder, builder.add(places, builder.mul(row, I64(8))), I64, 8)
    return load(builder, builder.add(place, column), HALVES, 2)


@compile_time
def _scores(typing_context, queries, q, keys, size, scale, out, out_stride):
    def generate(context, builder, signature, arguments):
        queries, q, keys, size, scale, out, out_stride = arguments

        def write(queries):
            places = [load(builder, builder.add(keys, I64(8 * i)), I64, 8) for i in range(GROUP)]
            index, sums, close = loop(builder, builder.udiv(size, I64(LANES)), [ZERO] * queries)
            four = ir.VectorType(I64, GROUP)
            step = builder.mul(index, I64(2 * LANES))
            rows = [load(builder, builder.add(place, step), four, 2) for place in places]
            results = list(sums)
            for t in range(GROUP):  # the next four elements of each key, side by side
                pairs = [pick(builder, rows[i], rows[i + 1], [t, GROUP + t]) for i in (0, 2)]
                key = widened(builder, builder.bitcast(pick(builder, pairs[0], pairs[1], range(GROUP)), HALVES))
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
                place = builder.add(out, builder.mul(out_stride, I64(i)))
                store(builder, pick(builder, x, x, range(0, LANES, 4)), place)

        cases(builder, queries, QUERIES, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.int64, types.int64), generate


@compile_time
def _values(typing_context, queries, places, column, groups, weights, weights_stride, sums, sums_stride):
    def generate(context, builder, signature, arguments):
        queries, places, column, groups, weights, weights_stride, sums, sums_stride = arguments

        def write(queries):
            rows = [builder.add(sums, builder.mul(sums_stride, I64(i))) for i in range(queries)]
            index, added, close = loop(builder, groups, [load(builder, row, FLOATS, 4) for row in rows])
            first = builder.mul(index, I64(GROUP))
            halves = [value_row(builder, places, column, builder.add(first, I64(i))) for i in range(GROUP)]
            four = [widened(builder, x) for x in halves]
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

        cases(builder, queries, QUERIES, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


@jit
def any_scores(queries, q, keys, size, scale, out, out_stride):
    """Scores of four keys with up to `QUERIES` queries.

    q: float32 (queries, size). keys: int64 (4,), addresses of bfloat16 (size,). out: float32 (queries, 4).
    """
    _scores(queries, q, keys, size, scale, out, out_stride)


@jit
def any_values(queries, places, column, groups, weights, weights_stride, sums, sums_stride):
    """Add the weighted values of groups of four keys, 16 columns of them, to some queries' sums.

    places: int64 (4 x groups,), addresses of bfloat16 rows; column: bytes from there; the others are float32.
    """
    _values(queries, places, column, groups, weights, weights_stride, sums, sums_stride)


@compile_time
def add_value(typing_context, place, weight, sums):
    """Add one key's weighted values, 16 columns of them."""

    def generate(context, builder, signature, arguments):
        place, weight, sums = arguments
        value = widened(builder, load(builder, place, HALVES, 2))
        before = load(builder, sums, FLOATS, 4)
        store(builder, intrinsic(builder, "fma", every(builder, weight), value, before), sums)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), generate
