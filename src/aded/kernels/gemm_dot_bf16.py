"""bfloat16 matrix products summed as torch sums them on processors with AVX2 and nothing newer: one dot product each.

There the library takes a dot product of float32 values for each token and feature, whatever their number: 64 sums by
index modulo 64, added by halves; of what is left, whole groups of 16 in eight sums, and the rest one by one. So a token
has the library's bits, and those it has alone. The library reads all weights again for every token; here a feature's
are read once for all.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from aded.kernels.gemm_bf16 import narrow, operands, widen, widen_row
from aded.kernels.jit import jit
from aded.kernels.openmp import compile_time
from aded.kernels.vectors import F32, FLOATS, I32, I64, LANES, ZERO, fma, intrinsic, load, loop, pick

STEP = 64  # inputs that are summed apart
_EIGHT = 8  # and of those that are left
_TOKENS = 64  # tokens whose inputs stay in a core's cache meanwhile


def _halved(builder, sums, lanes):
    """The sum of a vector's lanes: its halves are added, until one is left."""
    while lanes > 1:
        lanes //= 2
        sums = builder.fadd(pick(builder, sums, sums, range(lanes)), pick(builder, sums, sums, range(lanes, 2 * lanes)))
    return builder.extract_element(sums, I32(0))


@compile_time
def _steps(typing_context, a, b, count):
    """The sum of 64 x count products of float32 at two addresses; count is positive."""

    def generate(context, builder, signature, arguments):
        a, b, count = arguments
        index, sums, close = loop(builder, count, [ZERO] * (STEP // LANES))
        results = []
        for i, total in enumerate(sums):
            at = builder.add(builder.mul(index, I64(4 * STEP)), I64(4 * LANES * i))
            x, y = (load(builder, builder.add(place, at), FLOATS, 4) for place in (a, b))
            results.append(intrinsic(builder, "fma", x, y, total))
        close(results)
        first, last = (builder.fadd(results[i], results[i + 2]) for i in (0, 1))
        return _halved(builder, builder.fadd(first, last), LANES)

    return types.float32(*[types.int64] * 3), generate


@compile_time
def _eights(typing_context, a, b, count):
    """The same of 8 x count products."""
    kind = ir.VectorType(F32, _EIGHT)

    def generate(context, builder, signature, arguments):
        a, b, count = arguments
        index, (total,), close = loop(builder, count, [ir.Constant(kind, [0.0] * _EIGHT)])
        at = builder.mul(index, I64(4 * _EIGHT))
        x, y = (load(builder, builder.add(place, at), kind, 4) for place in (a, b))
        result = builder.fadd(builder.fmul(x, y), total)  # products of bfloat16 are exact
        close([result])
        return _halved(builder, result, _EIGHT)

    return types.float32(*[types.int64] * 3), generate


@jit
def _rest(a, b, done, total):
    """A sum with the products of two rows of float32, which hold bfloat16 values, from a place on."""
    count = (len(a) - done) // LANES * (LANES // _EIGHT)  # as many bfloat16 as LANES fill one of the library's vectors
    if count:
        total += _eights(a[done:].ctypes.data, b[done:].ctypes.data, np.int64(count))
    for j in range(done + count * _EIGHT, len(a)):
        total = fma(a[j], b[j], total)
    return total


@jit
def _multiply(x, weight, bias, out, begin, end):
    """out = x @ weight.T + bias for features `begin` to `end`; all are bfloat16 bits, `bias` may be empty."""
    m, k = x.shape
    wide, row = np.empty((min(m, _TOKENS), k), np.float32), np.empty(k, np.float32)
    first, other = wide.ctypes.data, row.ctypes.data  # whole steps are summed by address: the loop is short
    steps = np.int64(k // STEP)
    for chunk in range(0, m, _TOKENS):
        tokens = min(m - chunk, _TOKENS)
        for i in range(tokens):
            widen_row(x[chunk + i], wide[i])
        for feature in range(begin, end):
            widen_row(weight[feature], row)
            more = widen(bias[feature]) if len(bias) else np.float32(0)
            for i in range(tokens):
                total = _steps(first + 4 * k * i, other, steps) if steps else np.float32(0)
                if steps * STEP < k:
                    total = _rest(wide[i], row, steps * STEP, total)
                if len(bias):
                    total += more
                out[chunk + i, feature] = narrow(total)


def share(arguments):
    """One thread's share of a product; arguments as of `aded.kernels.gemm_bf16.share`."""
    x, weight, bias, out, begin, end = operands(arguments)
    _multiply(x, weight, bias, out, begin, end)
