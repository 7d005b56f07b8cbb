"""bfloat16 matrix products for a few tokens, on CPUs that multiply bfloat16 pairs in one instruction (AVX-512 BF16).

A verification step is a handful of tokens: it takes as long as reading the weights does, if they lie in the order they
are needed in and each is read once for all tokens. The matrix library's kernels are made for hundreds of tokens and
take twice that time. What this kernel gives for a token does not depend on how many others are computed with it, and is
what the library (oneDNN, as torch calls it) gives for a token alone, bit for bit: inputs are summed in blocks of 512,
each from zero, the blocks' sums are added in order, then the bias.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import carray, types

from aded.kernels.jit import jit
from aded.kernels.openmp import call, compile_time, pointer

llvm.initialize_native_asmparser()  # for the two instructions that LLVM has no portable name for

_LANES = 16  # float32 sums in a register
_REGISTERS = 3  # registers of sums for each token
TOKENS = 8  # of a tile: 8 x 3 sums, 3 of weights and one of inputs: 28 of the 32 registers
FEATURES = _LANES * _REGISTERS  # output features of a block
_INPUTS = 512  # summed from zero, as in the library

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SUMS, _PAIRS = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(_I32, _LANES)
_HALVES = ir.VectorType(_I16, _LANES)
_DOT = (ir.FunctionType(_SUMS, [_SUMS, _PAIRS, _PAIRS]), "vdpbf16ps $3, $2, $0", "=v,0,v,v")
_NARROW = (ir.FunctionType(_HALVES, [_SUMS]), "vcvtneps2bf16 $1, $0", "=v,v")


def has_bf16_dot() -> bool:
    """Whether this processor has the instructions."""
    return bool(llvm.get_host_cpu_features().get("avx512bf16"))


def _tile(tokens: int) -> Any:
    """The product of `tokens` tokens with one block of features over some inputs, all sums in registers throughout."""

    @compile_time
    def tile(typing_context, x, x_stride, weight, pairs, total, add, last, bias, out, out_stride):
        # total: float32 (tokens, FEATURES), sums of the inputs before these, where `add` is not 0. The sums go there,
        # or, where `last` is not 0, to out, with the bias unless its address is 0.
        def generate(context, builder, signature, arguments):
            x, x_stride, weight, pairs, total, add, last, bias, out, out_stride = arguments

            def at(address, kind):
                return builder.inttoptr(address, kind.as_pointer())

            def row(address, stride, i, kind):
                return at(builder.add(address, builder.mul(stride, _I64(i))), kind)

            def load(pointer, index, align):
                value = builder.load(builder.gep(pointer, [index]))
                value.align = align
                return value

            inputs = [row(x, x_stride, i, _I32) for i in range(tokens)]
            weights, totals = at(weight, _PAIRS), at(total, _SUMS)
            zero = ir.Constant(_SUMS, [0.0] * _LANES)
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            pair = builder.phi(_I64)
            sums = [[builder.phi(_SUMS) for _ in range(_REGISTERS)] for _ in range(tokens)]
            block = builder.mul(pair, _I64(_REGISTERS))
            loaded = [load(weights, builder.add(block, _I64(r)), 64) for r in range(_REGISTERS)]
            undefined = ir.Constant(_PAIRS, ir.Undefined)
            added = []
            for i in range(tokens):
                one = builder.insert_element(undefined, load(inputs[i], pair, 2), _I32(0))
                every = builder.shuffle_vector(one, undefined, ir.Constant(_PAIRS, [0] * _LANES))
                added.append(
                    [builder.call(ir.InlineAsm(*_DOT), [sums[i][r], loaded[r], every]) for r in range(_REGISTERS)]
                )
            following = builder.add(pair, _I64(1))
            pair.add_incoming(_I64(0), before)
            pair.add_incoming(following, loop)
            for i in range(tokens):
                for r in range(_REGISTERS):
                    sums[i][r].add_incoming(zero, before)
                    sums[i][r].add_incoming(added[i][r], loop)
            builder.cbranch(builder.icmp_signed("<", following, pairs), loop, after)
            builder.position_at_end(after)
            adds = builder.icmp_signed("!=", add, _I64(0))
            results = []
            for i in range(tokens):
                for r in range(_REGISTERS):
                    both = builder.fadd(load(totals, _I64(i * _REGISTERS + r), 4), added[i][r])
                    results.append(builder.select(adds, both, added[i][r]))
            keep, finish, done = (builder.append_basic_block() for _ in range(3))
            builder.cbranch(builder.icmp_signed("!=", last, _I64(0)), finish, keep)
            builder.position_at_end(keep)
            for place, result in enumerate(results):
                builder.store(result, builder.gep(totals, [_I64(place)])).align = 4
            builder.branch(done)
            builder.position_at_end(finish)
            biased = builder.icmp_signed("!=", bias, _I64(0))
            biases = at(builder.select(biased, bias, total), _SUMS)  # without one, any place that can be read
            for i in range(tokens):
                target = row(out, out_stride, i, _HALVES)
                for r in range(_REGISTERS):
                    bare = results[i * _REGISTERS + r]
                    result = builder.select(biased, builder.fadd(bare, load(biases, _I64(r), 4)), bare)
                    narrow = builder.call(ir.InlineAsm(*_NARROW), [result])
                    builder.store(narrow, builder.gep(target, [_I64(r)])).align = 2
            builder.branch(done)
            builder.position_at_end(done)
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

    Arguments: m, k, n; the addresses of x, of the weights in blocks (blocks, k / 2, `FEATURES`, 2), of a float32 bias
    padded to whole blocks (0 for none) and of out; the two functions of `Parallel`.
    """
    m, k, n = arguments[0], arguments[1], arguments[2]
    x, weight, bias, out = arguments[3], arguments[4], arguments[5], arguments[6]
    thread, threads = np.int64(call(arguments[7])), np.int64(call(arguments[8]))
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
            for start in range(0, k, _INPUTS):
                _any_tile(
                    tokens,
                    x + (token * k + start) * 2,
                    k * 2,
                    weight + (first * k + start * FEATURES) * 2,
                    min(k - start, np.int64(_INPUTS)) // 2,
                    sums.ctypes.data,
                    np.int64(start > 0),
                    np.int64(start + _INPUTS >= k),
                    bias + first * 4 if bias else np.int64(0),
                    target,
                    stride,
                )
            if not whole:
                _copy(spare.ctypes.data, place, tokens, n - first, n)
