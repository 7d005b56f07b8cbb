"""Scores and weighted values of float32 keys and values, in an order of our own.

A score is 16 sums of products, by index modulo 16, folded; values are added key by key.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils

from aded.kernels.attention.fours import GROUP, QUERIES
from aded.kernels.jit import jit
from aded.kernels.openmp import compile_time
from aded.kernels.vectors import (
    F32,
    FLOATS,
    I64,
    LANES,
    ZERO,
    cases,
    every,
    folded,
    intrinsic,
    load,
    loop,
    pick,
    store,
)

_TOGETHER = 4  # queries at a time: 4 x 4 sums, 4 of keys and one of a query fit 32 registers


@compile_time
def _scores(typing_context, queries, q, keys, size, scale, out, out_stride):
    def generate(context, builder, signature, arguments):
        queries, q, keys, size, scale, out, out_stride = arguments

        def write(queries):
            places = [load(builder, builder.add(keys, I64(8 * i)), I64, 8) for i in range(GROUP)]
            for first in range(0, queries, _TOGETHER):
                mine = range(first, min(first + _TOGETHER, queries))
                sums = [[cgutils.alloca_once_value(builder, ZERO) for _ in range(GROUP)] for _ in mine]
                with cgutils.for_range(builder, builder.udiv(size, I64(LANES))) as block:
                    step = builder.mul(block.index, I64(4 * LANES))
                    rows = [load(builder, builder.add(place, step), FLOATS, 4) for place in places]
                    for i, totals in zip(mine, sums, strict=True):
                        at = builder.add(q, builder.mul(builder.mul(size, I64(4)), I64(i)))
                        query = load(builder, builder.add(at, step), FLOATS, 4)
                        for total, row in zip(totals, rows, strict=True):
                            builder.store(intrinsic(builder, "fma", row, query, builder.load(total)), total)
                for i, totals in zip(mine, sums, strict=True):
                    x = folded(builder, [builder.load(total) for total in totals])
                    x = builder.fmul(x, pick(builder, every(builder, scale), ZERO, range(GROUP)))
                    store(builder, x, builder.add(out, builder.mul(out_stride, I64(i))))

        cases(builder, queries, QUERIES, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.int64, types.int64), generate


@compile_time
def _values(typing_context, queries, places, column, keys, weights, weights_stride, sums, sums_stride):
    def generate(context, builder, signature, arguments):
        queries, places, column, keys, weights, weights_stride, sums, sums_stride = arguments

        def write(queries):
            rows = [builder.add(sums, builder.mul(sums_stride, I64(i))) for i in range(queries)]
            index, added, close = loop(builder, keys, [load(builder, row, FLOATS, 4) for row in rows])
            place = load(builder, builder.add(places, builder.mul(index, I64(8))), I64, 8)
            value = load(builder, builder.add(place, column), FLOATS, 4)
            results = []
            for i in range(queries):
                at = builder.add(builder.add(weights, builder.mul(weights_stride, I64(i))), builder.mul(index, I64(4)))
                results.append(intrinsic(builder, "fma", every(builder, load(builder, at, F32, 4)), value, added[i]))
            close(results)
            for row, result in zip(rows, results, strict=True):
                store(builder, result, row)

        cases(builder, queries, QUERIES, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


@jit
def any_scores(queries, q, keys, size, scale, out, out_stride):
    """Scores of four keys with up to `QUERIES` queries.

    q: float32 (queries, size). keys: int64 (4,), addresses of float32 (size,). out: float32 (queries, 4).
    """
    _scores(queries, q, keys, size, scale, out, out_stride)


@jit
def any_values(queries, places, column, keys, weights, weights_stride, sums, sums_stride):
    """Add the weighted values of some keys, 16 columns of them, to some queries' sums.

    places: int64 (keys,), addresses of float32 rows; column: bytes from there; the others are float32.
    """
    _values(queries, places, column, keys, weights, weights_stride, sums, sums_stride)
