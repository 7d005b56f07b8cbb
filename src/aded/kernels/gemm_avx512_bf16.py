"""bfloat16 matrix products for a few tokens, on CPUs that multiply bfloat16 pairs in one instruction (AVX-512 BF16).

A verification step is a handful of tokens: it takes as long as reading the weights does, if they lie in the order they
are needed in and each is read once for all tokens. The matrix library's kernels are made for hundreds of tokens and
take twice that time. What this kernel gives for a token does not depend on how many others are computed with it, and is
what the library (oneDNN, as torch calls it) gives for a token alone, bit for bit: inputs are summed in blocks of 512,
each from zero, the blocks' sums are added in order, then the bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types

from aded.kernels.jit import jit
from aded.kernels.openmp import call, compile_time, pointer
from aded.kernels.vectors import FLOATS, I32, I64, INTS, LANES, dot, every, load, loop, narrowed, store

_REGISTERS = 3  # registers of sums for each token
TOKENS = 8  # of a tile: 8 x 3 sums, 3 of weights and one of inputs: 28 of the 32 registers
FEATURES = LANES * _REGISTERS  # output features of a block
STEP = 2  # inputs that one instruction takes


def _tile(tokens: int) -> Any:
    """The product of `tokens` tokens with one block of features over some inputs, all sums in registers throughout."""

    @compile_time
    def tile(typing_context, x, x_stride, weight, pairs, total, add, last, bias, out, out_stride):
        # total: float32 (tokens, FEATURES), sums of the inputs before these, where `add` is not 0. The sums go there,
        # or, where `last` is not 0, to out, with the bias unless its address is 0.
        def generate(context, builder, signature, arguments):
            x, x_stride, weight, pairs, total, add, last, bias, out, out_stride = arguments

            def behind(address, bytes, times=1):
                return builder.add(address, builder.mul(bytes, I64(times)))

            inputs = [behind(x, x_stride, i) for i in range(tokens)]
            places = [behind(total, I64(4 * LANES), i) for i in range(tokens * _REGISTERS)]
            pair, sums, close = loop(builder, pairs, [ir.Constant(FLOATS, [0.0] * LANES)] * len(places))
            block = behind(weight, pair, 4 * FEATURES)
            weights = [load(builder, behind(block, I64(4 * LANES), r), INTS, 64) for r in range(_REGISTERS)]
            added: list[Any] = []
            for i in range(tokens):
                both = every(builder, load(builder, behind(inputs[i], pair, 4), I32, 2))
                added += [dot(builder, sums[len(added) + r], weights[r], both) for r in range(_REGISTERS)]
            close(added)
            adds = builder.icmp_signed("!=", add, I64(0))
            results = []
            for place, result in zip(places, added, strict=True):
                more = builder.fadd(load(builder, place, FLOATS, 4), result)
                results.append(builder.select(adds, more, result))
            with builder.if_else(builder.icmp_signed("!=", last, I64(0))) as (finish, keep):
                with keep:
                    for place, result in zip(places, results, strict=True):
                        store(builder, result, place)
                with finish:
                    biased = builder.icmp_signed("!=", bias, I64(0))
                    start = builder.select(biased, bias, total)  # without one, any place that can be read
                    for i in range(tokens):
                        for r in range(_REGISTERS):
                            bare = results[i * _REGISTERS + r]
                            more = builder.fadd(bare, load(builder, behind(start, I64(4 * LANES), r), FLOATS, 4))
                            result = narrowed(builder, builder.select(biased, more, bare))
                            store(builder, result, behind(behind(out, out_stride, i), I64(2 * LANES), r), 2)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return tile


_tile_1, _tile_2, _tile_3, _tile_4, _tile_5, _tile_6, _tile_7, _tile_8 = map(_tile, range(1, TOKENS + 1))


@jit
def _any_tile(tokens, x, x_stride, weight, pairs, total, add, last, bias, out, out_stride):
    if tokens == 8:
        _tile_8(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)
    elif tokens == 7:
        _tile_7(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)
    elif tokens == 6:
        _tile_6(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)
    elif tokens == 5:
        _tile_5(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)
    elif tokens == 4:
        _tile_4(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)
    elif tokens == 3:
        _tile_3(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)
    elif tokens == 2:
        _tile_2(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)
    else:
        _tile_1(x, x_stride, weight, pairs, total, add, last, bias, out, out_stride)


@jit
def _copy(source, target, rows, columns, stride):
    whole = carray(pointer(source), (rows, FEATURES))
    part = carray(pointer(target), ((rows - 1) * stride + columns,))
    for i in range(rows):
        for j in range(columns):
            part[i * stride + j] = whole[i, j]


def share(arguments):
    """One thread's share of a product, in bfloat16: out (m, n) = x (m, k) @ weight.T + bias.

    Arguments: m, k, n, how many inputs are summed from zero (even, as k is); the addresses of x, of the weights in
    blocks (blocks, k / 2, `FEATURES`, 2), of a float32 bias padded to whole blocks (0 for none) and of out; the two
    functions of `Parallel`.
    """
    m, k, n, inputs = arguments[0], arguments[1], arguments[2], arguments[3]
    x, weight, bias, out = arguments[4], arguments[5], arguments[6], arguments[7]
    thread, threads = np.int64(call(arguments[8])), np.int64(call(arguments[9]))
    sums, spare = np.empty((TOKENS, FEATURES), np.float32), np.empty((TOKENS, FEATURES), np.uint16)
    blocks = (n + FEATURES - 1) // FEATURES
    for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        first = block * FEATURES
        whole = first + FEATURES <= n
        for token in range(0, m, TOKENS):
            tokens = min(np.int64(TOKENS), m - token)
            place = out + (token * n + first) * 2
            # The last features may be fewer than a block: their results go by way of a spare place.
            target, stride = (place, n * 2) if whole else (spare.ctypes.data, np.int64(FEATURES * 2))
            for start in range(0, k, inputs):
                _any_tile(
                    tokens,
                    x + (token * k + start) * 2,
                    k * 2,
                    weight + (first * k + start * FEATURES) * 2,
                    min(k - start, inputs) // 2,
                    sums.ctypes.data,
                    np.int64(start > 0),
                    np.int64(start + inputs >= k),
                    bias + first * 4 if bias else np.int64(0),
                    target,
                    stride,
                )
            if not whole:
                _copy(spare.ctypes.data, place, tokens, n - first, n)
