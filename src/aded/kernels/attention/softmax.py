"""From scores to weights, in blocks with a running maximum, as torch computes them for one query."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from aded.kernels.gemm_bf16 import narrow, widen
from aded.kernels.jit import jit_with
from aded.kernels.openmp import compile_time
from aded.kernels.vectors import (
    F32,
    FLOATS,
    I32,
    I64,
    LANES,
    ZERO,
    accurate_exponential,
    every,
    exponential,
    fma,
    load,
    loop,
    pick,
    rounded,
    store,
)

_expf: Any = types.ExternalFunction("expf", types.float32(types.float32))


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


def _weighing(exponential: Callable[..., Any], kept: Callable[..., Any]) -> Any:
    """With this exponential; `kept` is made of each weight after it was added to the sum."""

    @compile_time
    def weigh(typing_context, scores, groups, top):
        def generate(context, builder, signature, arguments):
            scores, groups, top = arguments
            # Every second group is summed apart, as in the library.
            index, (mine, others), close = loop(builder, groups, [ZERO] * 2)
            place = builder.add(scores, builder.mul(index, I64(64)))
            weight = exponential(builder, builder.fsub(load(builder, place, FLOATS, 4), every(builder, top)))
            store(builder, kept(builder, weight), place)
            added = builder.fadd(mine, weight)
            close([others, added])
            sums = builder.fadd(others, added)
            for width in (8, 4, 2, 1):
                sums = builder.fadd(sums, pick(builder, sums, sums, [(x + width) % LANES for x in range(LANES)]))
            return builder.extract_element(sums, I32(0))

        return types.float32(types.int64, types.int64, types.float32), generate

    return weigh


@compile_time
def _weigh_eights(typing_context, scores, eights, top):
    """Make 8 x eights scores weights, in place; their sum, every second eight apart, as with vectors of eight."""
    half = LANES // 2
    kind = ir.VectorType(F32, half)

    def generate(context, builder, signature, arguments):
        scores, eights, top = arguments
        sums = [cgutils.alloca_once_value(builder, ir.Constant(kind, [0.0] * half)) for _ in range(2)]

        def add(weight, n):
            part = pick(builder, weight, weight, range(half * n, half * n + half))
            builder.store(builder.fadd(builder.load(sums[n]), part), sums[n])

        def weigh(x):
            return exponential(builder, builder.fsub(x, every(builder, top)))

        with cgutils.for_range(builder, builder.udiv(eights, I64(2))) as group:
            place = builder.add(scores, builder.mul(group.index, I64(64)))
            weight = weigh(load(builder, place, FLOATS, 4))
            store(builder, rounded(builder, weight), place)
            add(weight, 0)
            add(weight, 1)
        with builder.if_then(builder.icmp_signed("!=", builder.urem(eights, I64(2)), I64(0))):
            place = builder.add(scores, builder.mul(builder.sub(eights, I64(1)), I64(32)))
            few = load(builder, place, kind, 4)
            weight = weigh(pick(builder, few, few, range(LANES)))
            kept = rounded(builder, weight)
            store(builder, pick(builder, kept, kept, range(half)), place)
            add(weight, 0)
        total = builder.fadd(*map(builder.load, sums))
        for width in (4, 2, 1):
            total = builder.fadd(total, pick(builder, total, total, [lane ^ width for lane in range(half)]))
        return builder.extract_element(total, I32(0))

    return types.float32(types.int64, types.int64, types.float32), generate


# Make 16 x groups scores weights, in place; their sum.
_weigh = _weighing(exponential, rounded)
_weigh_f32 = _weighing(accurate_exponential, lambda builder, x: x)


@jit_with(error_model="numpy")
def softmax_f32(scores, address, n, top, total, sums, first):
    """As `softmax`, in float32 throughout. There is room behind the scores for a whole group of 16."""
    groups = (n + LANES - 1) // LANES
    scores[n : groups * LANES] = -np.inf
    highest = max(top, _highest(address, groups))
    part = _weigh_f32(address, groups, highest)
    if first:
        return highest, part
    rescaled = np.full(LANES, top, np.float32)
    _weigh_f32(rescaled.ctypes.data, 1, highest)
    for c in range(len(sums)):
        sums[c] *= rescaled[0]
    return highest, fma(rescaled[0], total, part)


@jit_with(error_model="numpy")
def softmax(scores, address, n, top, total, sums, first, lanes):
    """One block's scores become weights, in place; (maximum, sum of weights) so far, and `sums` on that scale.

    lanes: values in a vector of the library's, 16 or 8.
    """
    groups = n // LANES
    highest = max(top, _highest(address, groups)) if groups else top
    for j in range(groups * LANES, n):
        highest = max(highest, scores[j])
    part, whole = np.float32(0.0), n // lanes
    if whole and lanes == LANES:
        part = _weigh(address, whole, highest)
    elif whole:
        part = _weigh_eights(address, whole, highest)
    for j in range(whole * lanes, n):
        weight = np.float32(math.exp(np.float64(scores[j] - highest)))  # the library's is that of float64 here
        part = part + weight
        scores[j] = widen(narrow(weight))
    if first:
        return highest, part
    rescaled = _expf(top - highest)
    for c in range(len(sums)):
        sums[c] *= rescaled
    return highest, fma(rescaled, total, part)
