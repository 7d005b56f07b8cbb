"""Scores and weighted values in bfloat16 pairs, as the matrix library (MKL) sums them on Intel's processors.

A score is 16 sums of pairs of products, by index modulo 32, folded in halves, neighbours, neighbours and halves; values
are added in groups of eight keys, each group a sum from zero.

Of a pair the second product is added first, each rounded when it is added. Two instructions on float32 do that in half
the time that Intel's processors take for the one that is made for it (0.3 and 1.2 ns on Emerald Rapids).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from aded.kernels.attention.fours import QUERIES, value_row
from aded.kernels.jit import jit
from aded.kernels.openmp import compile_time
from aded.kernels.vectors import (
    F32,
    FLOATS,
    I32,
    I64,
    INTS,
    LANES,
    ZERO,
    cases,
    every,
    folded,
    halves,
    intrinsic,
    load,
    loop,
    pick,
    store,
    widened,
)

GROUP = 8  # keys whose values are summed from zero
INPUTS = 2 * LANES  # that queries are padded with zeros to a multiple of
_SECOND_FIRST = [i ^ 1 for i in range(GROUP)]  # the order in which a group's keys are added

_KEYS = 4  # whose scores are computed together
_TOGETHER = 4  # queries at a time: 4 x 4 sums, 4 of keys and one of a query fit 32 registers


@compile_time
def _scores(typing_context, queries, q, keys, size, scale, out, out_stride):
    def generate(context, builder, signature, arguments):
        queries, q, keys, size, scale, out, out_stride = arguments
        whole = builder.udiv(size, I64(INPUTS))
        wide = builder.mul(builder.udiv(builder.add(size, I64(INPUTS - 1)), I64(INPUTS)), I64(4 * INPUTS))

        def add(step, rows, mine, sums):
            split = [halves(builder, row) for row in rows]
            for i, totals in zip(mine, sums, strict=True):
                place = builder.add(builder.add(q, builder.mul(wide, I64(i))), builder.mul(step, I64(2)))
                query = [load(builder, builder.add(place, I64(4 * LANES * half)), FLOATS, 4) for half in range(2)]
                for total, row in zip(totals, split, strict=True):
                    x = builder.load(total)
                    for mine, others in zip(row, query, strict=True):
                        x = intrinsic(builder, "fma", mine, others, x)
                    builder.store(x, total)

        def write(queries):
            places = [load(builder, builder.add(keys, I64(8 * i)), I64, 8) for i in range(_KEYS)]
            for first in range(0, queries, _TOGETHER):
                mine = range(first, min(first + _TOGETHER, queries))
                sums = [[cgutils.alloca_once_value(builder, ZERO) for _ in range(_KEYS)] for _ in mine]
                with cgutils.for_range(builder, whole) as block:
                    step = builder.mul(block.index, I64(2 * INPUTS))
                    add(step, [load(builder, builder.add(place, step), INTS, 2) for place in places], mine, sums)
                with builder.if_then(builder.icmp_signed("!=", builder.urem(size, I64(INPUTS)), I64(0))):
                    step = builder.mul(whole, I64(2 * INPUTS))
                    part = ir.VectorType(I32, LANES // 2)
                    none = ir.Constant(part, [0] * (LANES // 2))
                    rest = (load(builder, builder.add(place, step), part, 2) for place in places)
                    add(step, [pick(builder, row, none, range(LANES)) for row in rest], mine, sums)
                for i, totals in zip(mine, sums, strict=True):
                    x = folded(builder, [builder.load(total) for total in totals])
                    x = builder.fmul(x, pick(builder, every(builder, scale), ZERO, range(_KEYS)))
                    store(builder, x, builder.add(out, builder.mul(out_stride, I64(i))))

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
            rows_of = [value_row(builder, places, column, builder.add(first, I64(i))) for i in range(GROUP)]
            values = [widened(builder, row) for row in rows_of]
            results = []
            for i in range(queries):
                at = builder.add(weights, builder.mul(weights_stride, I64(i)))
                at = builder.add(at, builder.mul(index, I64(4 * GROUP)))
                total = ZERO
                for j in _SECOND_FIRST:
                    weight = every(builder, load(builder, builder.add(at, I64(4 * j)), F32, 4))
                    total = intrinsic(builder, "fma", weight, values[j], total)
                results.append(builder.fadd(added[i], total))
            close(results)
            for row, result in zip(rows, results, strict=True):
                store(builder, result, row)

        cases(builder, queries, QUERIES, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


@jit
def any_scores(queries, q, keys, size, scale, out, out_stride):
    """Scores of four keys with up to `QUERIES` queries.

    q: float32 (queries, blocks of `INPUTS`, 2, 16): what is at odd indices of a block, then at even ones. keys: int64
    (4,), addresses of bfloat16 (size,). out: float32 (queries, 4).
    """
    _scores(queries, q, keys, size, scale, out, out_stride)


@jit
def any_values(queries, places, column, groups, weights, weights_stride, sums, sums_stride):
    """Add the weighted values of groups of eight keys, 16 columns of them, to some queries' sums.

    places: int64 (8 x groups,), addresses of bfloat16 rows; column: bytes from there; the others are float32, weights
    (queries, 8 x groups) rounded to bfloat16.
    """
    _values(queries, places, column, groups, weights, weights_stride, sums, sums_stride)
