"""Scores and weighted values in float32, as the matrix library sums them on processors that it knows no better way for.

A score is four sums of products, by index modulo 4; values are added in groups of four keys.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from aded.kernels.jit import jit
from aded.kernels.openmp import compile_time
from aded.kernels.vectors import (
    F32,
    FLOATS,
    I16,
    I64,
    LANES,
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
def add_value(typing_context, place, weight, sums):
    """Add one key's weighted values, 16 columns of them."""

    def generate(context, builder, signature, arguments):
        place, weight, sums = arguments
        value = widened(builder, load(builder, place, ir.VectorType(I16, LANES), 2))
        before = load(builder, sums, FLOATS, 4)
        store(builder, intrinsic(builder, "fma", every(builder, weight), value, before), sums)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), generate


_s1, _s2, _s3, _s4, _s5, _s6, _s7, _s8 = map(_scores, range(1, QUERIES + 1))
_v1, _v2, _v3, _v4, _v5, _v6, _v7, _v8 = map(_values, range(1, QUERIES + 1))


@jit
def any_scores(queries, q, keys, size, scale, out, out_stride):
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
def any_values(queries, places, column, groups, weights, weights_stride, sums, sums_stride):
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
