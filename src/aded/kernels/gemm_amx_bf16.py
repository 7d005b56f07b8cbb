"""bfloat16 matrix products for a few tokens, on CPUs with matrix tiles (AMX).

A tile is 16 rows of 64 bytes. One instruction adds the products of 16 tokens with 16 features over 32 inputs, so that
a step of 16 tokens takes as long as one of one token: as long as reading the weights. What it gives for a token does
not depend on the others, and is what the library (oneDNN, as torch calls it) gives for a token alone, bit for bit:
inputs are summed in blocks, each from zero, and the blocks' sums are added in order, then the bias. How long a block is
depends there on the layer's shape and the number of threads, and is an argument here.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils

from aded.kernels.jit import jit
from aded.kernels.openmp import call, compile_time, pointer
from aded.kernels.vectors import FLOATS, I8, I64, LANES, load, narrowed, store

_ROWS = 16  # of a tile
FEATURES = 2 * _ROWS  # output features of a block
TOKENS = 2 * _ROWS  # computed together
STEP = 32  # inputs that one instruction takes
_ROW = 64  # bytes of a tile's row
_CONFIG = 64  # bytes that say what tiles are

# Eight tiles: sums of (tokens, features) 0 to 3, inputs 4 and 5, weights 6 and 7.
_SUMS, _INPUTS, _WEIGHTS = ((0, 1), (2, 3)), (4, 5), (6, 7)


def has_amx() -> bool:
    """Whether this processor has the tiles. A process may use them once it asked the system, as torch does."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("amx-bf16") and features.get("avx512bf16"))


def _tiles(builder, name, *arguments):
    """Call an instruction on tiles."""
    function = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.{name}"), arguments)


def _at(builder, address):
    return builder.inttoptr(address, I8.as_pointer())


@compile_time
def _configure(typing_context, config):
    """Shape the tiles as 64 bytes at an address say."""

    def generate(context, builder, signature, arguments):
        _tiles(builder, "ldtilecfg", _at(builder, arguments[0]))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@compile_time
def _release(typing_context):
    """Leave the tiles as they were."""

    def generate(context, builder, signature, arguments):
        _tiles(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def _product(halves: int) -> Any:
    """The sums of up to 16 tokens a half with one block of features over some inputs."""

    @compile_time
    def product(typing_context, x, x_stride, weight, steps, sums):
        # sums: float32 (TOKENS, FEATURES), where they go.
        def generate(context, builder, signature, arguments):
            x, x_stride, weight, steps, sums = arguments
            row = I64(4 * FEATURES)  # bytes, of weights (pairs) as of sums
            inputs = [builder.add(x, builder.mul(x_stride, I64(_ROWS * i))) for i in range(halves)]
            for i in range(halves):
                for tile in _SUMS[i]:
                    _tiles(builder, "tilezero", I8(tile))
            with cgutils.for_range(builder, steps) as step:
                block = builder.add(weight, builder.mul(step.index, I64(_ROWS * 4 * FEATURES)))
                for j, tile in enumerate(_WEIGHTS):
                    _tiles(builder, "tileloadd64", I8(tile), _at(builder, builder.add(block, I64(_ROW * j))), row)
                for i in range(halves):
                    at = builder.add(inputs[i], builder.mul(step.index, I64(2 * STEP)))
                    _tiles(builder, "tileloadd64", I8(_INPUTS[i]), _at(builder, at), x_stride)
                    for j, tile in enumerate(_SUMS[i]):
                        _tiles(builder, "tdpbf16ps", I8(tile), I8(_INPUTS[i]), I8(_WEIGHTS[j]))
            for i in range(halves):
                for j, tile in enumerate(_SUMS[i]):
                    at = builder.add(sums, I64(_ROWS * 4 * FEATURES * i + _ROW * j))
                    _tiles(builder, "tilestored64", I8(tile), _at(builder, at), row)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return product


_one, _two = _product(1), _product(2)


@compile_time
def _finish(typing_context, sums, bias, out):
    """16 sums, with the bias unless its address is 0, to bfloat16."""

    def generate(context, builder, signature, arguments):
        sums, bias, out = arguments
        bare = load(builder, sums, FLOATS, 4)
        biased = builder.icmp_signed("!=", bias, I64(0))
        more = builder.fadd(bare, load(builder, builder.select(biased, bias, sums), FLOATS, 4))
        store(builder, narrowed(builder, builder.select(biased, more, bare)), out, 2)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@jit
def _shape(config, tokens):
    """Tiles for so many tokens."""
    config[:] = 0
    config[0] = 1  # the palette
    for tile in range(8):
        config[16 + 2 * tile] = _ROW
        config[48 + tile] = _ROWS
    first, second = min(tokens, np.int64(_ROWS)), max(tokens - _ROWS, np.int64(1))
    config[48], config[49], config[52] = first, first, first
    config[50], config[51], config[53] = second, second, second
    _configure(config.ctypes.data)


@jit
def _copy(values, target, count):
    out = carray(pointer(target), (max(count, np.int64(0)),))
    for i in range(len(out)):
        out[i] = values[i]


def share(arguments):
    """One thread's share of a product, in bfloat16: out (m, n) = x (m, k) @ weight.T + bias.

    Arguments: m, k (a multiple of `STEP`), n, the inputs of a block (a multiple of `STEP` too); the addresses of x, of
    the weights in blocks (blocks, k / 2, `FEATURES`, 2), of a float32 bias padded to whole blocks (0 for none) and of
    out; the two functions of `Parallel`.
    """
    m, k, n, inputs = arguments[0], arguments[1], arguments[2], arguments[3]
    x, weight, bias, out = arguments[4], arguments[5], arguments[6], arguments[7]
    thread, threads = np.int64(call(arguments[8])), np.int64(call(arguments[9]))
    sums, totals = np.empty((TOKENS, FEATURES), np.float32), np.empty((TOKENS, FEATURES), np.float32)
    spare, config = np.empty(LANES, np.uint16), np.empty(_CONFIG, np.uint8)
    blocks = (n + FEATURES - 1) // FEATURES
    for token in range(0, m, TOKENS):
        tokens = min(np.int64(TOKENS), m - token)
        _shape(config, tokens)
        for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
            for start in range(0, k, inputs):
                steps = (min(start + inputs, k) - start) // STEP
                to = totals if start == 0 else sums
                begin = x + (token * k + start) * 2
                part = weight + (block * k + start) * FEATURES * 2
                if tokens > _ROWS:
                    _two(begin, k * 2, part, steps, to.ctypes.data)
                else:
                    _one(begin, k * 2, part, steps, to.ctypes.data)
                if start:
                    totals[:tokens] += sums[:tokens]
            for first in range(0, FEATURES, LANES):
                feature = block * FEATURES + first
                left = n - feature
                for i in range(tokens):
                    place = out + ((token + i) * n + feature) * 2
                    more = bias + feature * 4 if bias else np.int64(0)
                    target = place if left >= LANES else spare.ctypes.data
                    _finish(totals[i, first:].ctypes.data, more, target)
                    if left < LANES:
                        _copy(spare, place, left)
    _release()
