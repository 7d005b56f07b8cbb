"""bfloat16 matrix products for a few tokens, on CPUs that multiply bfloat16 pairs in one instruction (AVX-512 BF16).

A verification step is a handful of tokens: it takes as long as reading the weights does, if each is read once for all
tokens. The matrix library's kernels are made for hundreds of tokens and take twice that time. Here a small part of the
weights is put in the order of a tile while the next part is fetched. What this kernel gives for a token does not depend
on how many others are computed with it, and is what the library (oneDNN, as torch calls it) gives for a token alone,
bit for bit: inputs are summed in blocks (of 512, as far as is known), each from zero, the blocks' sums are added in
order, then the bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from aded.kernels.jit import jit
from aded.kernels.openmp import call, compile_time
from aded.kernels.vectors import (
    AHEAD,
    FLOATS,
    I32,
    I64,
    INTS,
    LANES,
    ZERO,
    cases,
    dot,
    every,
    finish,
    load,
    loop,
    store,
    turn_ahead,
)

_REGISTERS = 3  # registers of sums for each token
TOKENS = 8  # of a tile: 8 x 3 sums, 3 of weights and one of inputs: 28 of the 32 registers
FEATURES = LANES * _REGISTERS  # output features of a block
STEP = 2 * LANES  # inputs whose weights are put in order at once
_PART = AHEAD // 2  # inputs whose weights are in order at a time; the next are fetched meanwhile


@compile_time
def _tile(typing_context, tokens, x, x_stride, weight, pairs, sums, begin):
    def generate(context, builder, signature, arguments):
        tokens, x, x_stride, weight, pairs, sums, begin = arguments
        begins = builder.icmp_signed("!=", begin, I64(0))

        def behind(address, bytes, times=1):
            return builder.add(address, builder.mul(bytes, I64(times)))

        def write(tokens):
            inputs = [behind(x, x_stride, i) for i in range(tokens)]
            places = [behind(sums, I64(4 * LANES), i) for i in range(tokens * _REGISTERS)]
            starts = [builder.select(begins, ZERO, load(builder, place, FLOATS, 4)) for place in places]
            pair, before, close = loop(builder, pairs, starts)
            block = behind(weight, pair, 4 * FEATURES)
            weights = [load(builder, behind(block, I64(4 * LANES), r), INTS, 4) for r in range(_REGISTERS)]
            added: list[Any] = []
            for i in range(tokens):
                both = every(builder, load(builder, behind(inputs[i], pair, 4), I32, 2))
                added += [dot(builder, before[len(added) + r], weights[r], both) for r in range(_REGISTERS)]
            close(added)
            for place, result in zip(places, added, strict=True):
                store(builder, result, place)

        cases(builder, tokens, TOKENS, write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@jit
def _add_products(tokens, x, x_stride, weight, pairs, sums, begin):
    """Add the products of up to `TOKENS` tokens with one block of features over some inputs, all sums in registers.

    weight: pairs of inputs (pairs, FEATURES). sums: float32 (tokens, FEATURES), taken as 0 where `begin` is not.
    """
    _tile(tokens, x, x_stride, weight, pairs, sums, begin)


def share(arguments):
    """One thread's share of a product, in bfloat16: out (m, n) = x (m, k) @ weight.T + bias.

    Arguments: m, k, n, how many inputs are summed from zero (a multiple of `STEP`, as k is); the addresses of x, of the
    weights (n, k), of a float32 bias padded to whole blocks (0 for none) and of out; the two functions of `Parallel`.
    """
    m, k, n, inputs = arguments[0], arguments[1], arguments[2], arguments[3]
    x, weight, bias, out = arguments[4], arguments[5], arguments[6], arguments[7]
    thread, threads = np.int64(call(arguments[8])), np.int64(call(arguments[9]))
    sums, totals = np.empty((m, FEATURES), np.float32), np.empty((m, FEATURES), np.float32)
    pairs = np.empty((_PART // 2, FEATURES), np.float32)  # a part of the weights, in the order of a tile
    blocks = (n + FEATURES - 1) // FEATURES
    for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        first = block * FEATURES
        for start in range(0, k, inputs):
            end = min(start + inputs, k)
            for part in range(start, end, _PART):
                count = min(end - part, np.int64(_PART))
                for i in range(0, FEATURES, LANES):
                    rows = weight + (min(first + i, n - 1) * k + part) * 2
                    last = min(np.int64(LANES), max(n - first - i, np.int64(1))) - 1
                    for step in range(0, count, STEP):
                        turn_ahead(rows + step * 2, k * 2, last, pairs[step // 2, i:].ctypes.data, FEATURES * 4)
                for token in range(0, m, TOKENS):
                    tokens, begin = min(np.int64(TOKENS), m - token), np.int64(part == start)
                    place, to = x + (token * k + part) * 2, sums[token:].ctypes.data
                    _add_products(tokens, place, k * 2, pairs.ctypes.data, count // 2, to, begin)
            if start:
                totals += sums
            else:
                totals, sums = sums, totals
        for i in range(0, min(np.int64(FEATURES), n - first), LANES):
            more = bias + (first + i) * 4 if bias else np.int64(0)
            for t in range(m):
                place = out + (t * n + first + i) * 2
                finish(totals[t, i:].ctypes.data, more, place, min(np.int64(LANES), n - first - i))
