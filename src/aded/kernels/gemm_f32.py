"""float32 matrix products for a few tokens, on any CPU.

The matrix library sums in another order for each number of tokens. This kernel gives a token the same bits always: 16
sums of products, by index modulo 16, folded, then the bias. It reads each weight once for all tokens, as it lies.
"""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import carray, types

from aded.kernels.jit import jit
from aded.kernels.openmp import call, compile_time, pointer
from aded.kernels.vectors import FLOATS, I64, LANES, ZERO, cases, fma, folded, intrinsic, load, loop, store

FEATURES = 4  # of a tile
# Tokens of a tile: 4 x 6 sums, 4 of weights and one of inputs fit 32 registers of 512 bits. With smaller registers one
# token's sums fill them.
_TOKENS = 6 if llvm.get_host_cpu_features().get("avx512f") else 1


@compile_time
def _tile(typing_context, tokens, x, x_stride, weights, vectors, out, out_stride):
    def generate(context, builder, signature, arguments):
        tokens, x, x_stride, weights, vectors, out, out_stride = arguments

        def write(tokens):
            rows = [load(builder, builder.add(weights, I64(8 * i)), I64, 8) for i in range(FEATURES)]
            inputs = [builder.add(x, builder.mul(x_stride, I64(i))) for i in range(tokens)]
            index, sums, close = loop(builder, vectors, [ZERO] * (tokens * FEATURES))
            step = builder.mul(index, I64(4 * LANES))
            loaded = [load(builder, builder.add(row, step), FLOATS, 4) for row in rows]
            results: list[ir.Value] = []
            for place in inputs:
                mine = load(builder, builder.add(place, step), FLOATS, 4)
                results += [intrinsic(builder, "fma", mine, w, sums[len(results) + r]) for r, w in enumerate(loaded)]
            close(results)
            for i in range(tokens):
                four = folded(builder, results[FEATURES * i : FEATURES * (i + 1)])
                store(builder, four, builder.add(out, builder.mul(out_stride, I64(i))))

        cases(builder, tokens, _TOKENS, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@jit
def _any_tile(tokens, x, x_stride, weights, vectors, out, out_stride):
    """Products of up to `_TOKENS` tokens with four features over so many vectors of 16 inputs.

    weights: int64 (4,), addresses of rows. Strides are in bytes. out: float32 (tokens, 4).
    """
    _tile(tokens, x, x_stride, weights, vectors, out, out_stride)


def share(arguments):
    """One thread's share of a product, in float32: out (m, n) = x (m, k) @ weight (n, k).T + bias (n,).

    Arguments: m, k, n; the addresses of x, weight, bias (0 for none) and out; the two functions of `Parallel`.
    """
    m, k, n = arguments[0], arguments[1], arguments[2]
    x = carray(pointer(arguments[3]), (m, 2 * k)).view(np.float32)
    weight = carray(pointer(arguments[4]), (n, 2 * k)).view(np.float32)
    bias = carray(pointer(arguments[5]), (2 * n if arguments[5] else 0,)).view(np.float32)
    out = carray(pointer(arguments[6]), (m, 2 * n)).view(np.float32)
    thread, threads = np.int64(call(arguments[7])), np.int64(call(arguments[8]))
    sums, rows = np.empty((_TOKENS, FEATURES), np.float32), np.empty(FEATURES, np.int64)
    blocks, vectors = (n + FEATURES - 1) // FEATURES, k // LANES
    for first in range(blocks * thread // threads * FEATURES, blocks * (thread + 1) // threads * FEATURES, FEATURES):
        features = min(np.int64(FEATURES), n - first)
        for r in range(FEATURES):
            rows[r] = arguments[4] + min(first + r, n - 1) * k * 4
        for token in range(0, m, _TOKENS):
            tokens = min(np.int64(_TOKENS), m - token)
            if vectors:
                place, to = arguments[3] + token * k * 4, sums.ctypes.data
                _any_tile(tokens, place, k * 4, rows.ctypes.data, vectors, to, np.int64(4 * FEATURES))
            else:
                sums[:] = 0
            for i in range(tokens):
                for r in range(features):
                    total = sums[i, r]
                    for j in range(vectors * LANES, k):
                        total = fma(x[token + i, j], weight[first + r, j], total)
                    if len(bias):
                        total += bias[first + r]
                    out[token + i, first + r] = total
