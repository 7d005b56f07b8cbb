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
from numba import types
from numba.core import cgutils

from aded.kernels.jit import jit
from aded.kernels.openmp import call, compile_time
from aded.kernels.vectors import I8, I64, LANES, finish, turn

_ROWS = 16  # of a tile
FEATURES = 2 * _ROWS  # output features of a block
TOKENS = 2 * _ROWS  # computed together
STEP = 32  # inputs that one instruction takes
_ROW = 64  # bytes of a tile's row
_CONFIG = 64  # bytes that say what tiles are

# Eight tiles: sums (by half of the tokens, then of the features) 0 to 3, inputs 4 and 5, weights 6 and 7.
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
def _load_config(typing_context, config):
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
    def product(typing_context, x, half, weight, stride, steps, sums):
        # x: pairs of inputs (halves, `half` bytes apart; k / 2, 16 tokens). weight: bfloat16 (FEATURES, `stride`
        # bytes). sums: float32 (FEATURES, TOKENS), where they go.
        def generate(context, builder, signature, arguments):
            x, half, weight, stride, steps, sums = arguments
            row, places = I64(_ROW), [weight, builder.add(weight, builder.mul(stride, I64(_ROWS)))]
            inputs = [builder.add(x, builder.mul(half, I64(i))) for i in range(halves)]
            for i in range(halves):
                for tile in _SUMS[i]:
                    _tiles(builder, "tilezero", I8(tile))
            with cgutils.for_range(builder, steps) as step:
                along = builder.mul(step.index, row)
                for tile, place in zip(_WEIGHTS, places, strict=True):
                    _tiles(builder, "tileloadd64", I8(tile), _at(builder, builder.add(place, along)), stride)
                for i in range(halves):
                    at = builder.add(inputs[i], builder.mul(along, I64(_ROWS)))
                    _tiles(builder, "tileloadd64", I8(_INPUTS[i]), _at(builder, at), row)
                    for j, tile in enumerate(_SUMS[i]):
                        _tiles(builder, "tdpbf16ps", I8(tile), I8(_WEIGHTS[j]), I8(_INPUTS[i]))
            for i in range(halves):
                for j, tile in enumerate(_SUMS[i]):
                    at = builder.add(sums, I64(_ROWS * 4 * TOKENS * j + _ROW * i))
                    _tiles(builder, "tilestored64", I8(tile), _at(builder, at), I64(4 * TOKENS))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return product


_one, _two = _product(1), _product(2)


@jit
def _configure(config):
    """Make all tiles whole."""
    config[:] = 0
    config[0] = 1  # the palette
    for tile in range(8):
        config[16 + 2 * tile] = _ROW
        config[48 + tile] = _ROWS
    _load_config(config.ctypes.data)


def share(arguments):
    """One thread's share of a product, in bfloat16: out (m, n) = x (m, k) @ weight.T + bias.

    Arguments: m, k (a multiple of `STEP`), n (at least `FEATURES`), the inputs of a block (a multiple of `STEP` too);
    the addresses of x, of the weights (n, k), of a float32 bias (0 for none) and of out; the two functions of
    `Parallel`.
    """
    m, k, n, inputs = arguments[0], arguments[1], arguments[2], arguments[3]
    x, weight, bias, out = arguments[4], arguments[5], arguments[6], arguments[7]
    thread, threads = np.int64(call(arguments[8])), np.int64(call(arguments[9]))
    sums, totals = np.empty((FEATURES, TOKENS), np.float32), np.empty((FEATURES, TOKENS), np.float32)
    rows, config = np.empty((LANES, LANES), np.float32), np.empty(_CONFIG, np.uint8)
    pairs = np.empty((2, k // 2, LANES), np.float32)
    half, address = k // 2 * _ROW, pairs.ctypes.data
    blocks = (n + FEATURES - 1) // FEATURES
    _configure(config)
    for token in range(0, m, TOKENS):
        tokens = min(np.int64(TOKENS), m - token)
        for i in range(0, tokens, _ROWS):
            for step in range(0, k, STEP):
                place = x + ((token + i) * k + step) * 2
                turn(place, k * 2, tokens - i - 1, address + (i // _ROWS * k + step) // 2 * _ROW, _ROW)
        for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
            feature = min(block * FEATURES, n - FEATURES)
            for start in range(0, k, inputs):
                steps = (min(start + inputs, k) - start) // STEP
                to = totals if start == 0 else sums
                begin, part = address + start // 2 * _ROW, weight + (feature * k + start) * 2
                if tokens > _ROWS:
                    _two(begin, half, part, k * 2, steps, to.ctypes.data)
                else:
                    _one(begin, half, part, k * 2, steps, to.ctypes.data)
                if start:
                    totals += sums
            for i in range(0, tokens, _ROWS):
                for j in range(0, FEATURES, _ROWS):
                    turn(
                        totals[j, i:].ctypes.data,
                        np.int64(4 * TOKENS),
                        np.int64(_ROWS - 1),
                        rows.ctypes.data,
                        np.int64(_ROW),
                    )
                    more = bias + (feature + j) * 4 if bias else np.int64(0)
                    for t in range(min(tokens - i, np.int64(_ROWS))):
                        place = out + ((token + i + t) * n + feature + j) * 2
                        finish(rows[t].ctypes.data, more, place, LANES)
    _release()
