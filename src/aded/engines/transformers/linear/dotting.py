"""bfloat16 linear layers for a few tokens, on CPUs that multiply bfloat16 pairs in one instruction (AVX-512 BF16).

A verification step is a handful of tokens: it takes as long as reading the weights does, if they lie in the order they
are needed in and each is read once for all tokens. The matrix library's kernels are made for hundreds of tokens and
take twice that time. What this kernel gives for a token does not depend on how many others are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types

from aded.engines.transformers.linear.copies import WeightCopies
from aded.engines.transformers.linear.openmp import Parallel, call, compile_time, pointer

__all__ = ["DottingLinear"]

llvm.initialize_native_asmparser()  # for the two instructions that LLVM has no portable name for

_LANES = 16  # float32 sums in a register
_REGISTERS = 3  # registers of sums for each token
_TOKENS = 8  # 8 x 3 sums, 3 of weights and one of inputs: 28 of the 32 registers
_FEATURES = _LANES * _REGISTERS

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SUMS, _PAIRS = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(_I32, _LANES)
_HALVES = ir.VectorType(_I16, _LANES)
_DOT = (ir.FunctionType(_SUMS, [_SUMS, _PAIRS, _PAIRS]), "vdpbf16ps $3, $2, $0", "=v,0,v,v")
_NARROW = (ir.FunctionType(_HALVES, [_SUMS]), "vcvtneps2bf16 $1, $0", "=v,v")


def _tile(tokens: int) -> Any:
    """The product of `tokens` tokens with one block of features, all sums in registers throughout."""

    @compile_time
    def tile(typing_context, x, x_stride, weight, bias, pairs, out, out_stride):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x, x_stride, weight, bias, pairs, out, out_stride = arguments

            def at(address, kind):  # type: ignore[no-untyped-def]
                return builder.inttoptr(address, kind.as_pointer())

            def row(address, stride, i, kind):  # type: ignore[no-untyped-def]
                return at(builder.add(address, builder.mul(stride, _I64(i))), kind)

            def load(pointer, index, align):  # type: ignore[no-untyped-def]
                value = builder.load(builder.gep(pointer, [index]))
                value.align = align
                return value

            inputs = [row(x, x_stride, i, _I32) for i in range(tokens)]
            weights, start = at(weight, _PAIRS), at(bias, _SUMS)
            first = [load(start, _I64(r), 4) for r in range(_REGISTERS)]
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
                    sums[i][r].add_incoming(first[r], before)
                    sums[i][r].add_incoming(added[i][r], loop)
            builder.cbranch(builder.icmp_signed("<", following, pairs), loop, after)
            builder.position_at_end(after)
            for i in range(tokens):
                target = row(out, out_stride, i, _HALVES)
                for r in range(_REGISTERS):
                    narrow = builder.call(ir.InlineAsm(*_NARROW), [added[i][r]])
                    builder.store(narrow, builder.gep(target, [_I64(r)])).align = 2
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return tile


_tile_1, _tile_2, _tile_3, _tile_4, _tile_5, _tile_6, _tile_7, _tile_8 = map(_tile, range(1, _TOKENS + 1))


@njit(cache=True)
def _any_tile(tokens, x, x_stride, weight, bias, pairs, out, out_stride):  # type: ignore[no-untyped-def]
    if tokens == 8:
        _tile_8(x, x_stride, weight, bias, pairs, out, out_stride)
    elif tokens == 7:
        _tile_7(x, x_stride, weight, bias, pairs, out, out_stride)
    elif tokens == 6:
        _tile_6(x, x_stride, weight, bias, pairs, out, out_stride)
    elif tokens == 5:
        _tile_5(x, x_stride, weight, bias, pairs, out, out_stride)
    elif tokens == 4:
        _tile_4(x, x_stride, weight, bias, pairs, out, out_stride)
    elif tokens == 3:
        _tile_3(x, x_stride, weight, bias, pairs, out, out_stride)
    elif tokens == 2:
        _tile_2(x, x_stride, weight, bias, pairs, out, out_stride)
    else:
        _tile_1(x, x_stride, weight, bias, pairs, out, out_stride)


@njit(cache=True)
def _copy(source, target, rows, columns, stride):  # type: ignore[no-untyped-def]
    whole = carray(pointer(source), (rows, _FEATURES))
    part = carray(pointer(target), ((rows - 1) * stride + columns,))
    for i in range(rows):
        for j in range(columns):
            part[i * stride + j] = whole[i, j]


def _share(arguments):  # type: ignore[no-untyped-def]
    """One thread's share of a product; what it needs comes as ten numbers, see `DottingLinear`."""
    m, k, n = arguments[0], arguments[1], arguments[2]
    x, weight, bias, out, spare = arguments[3], arguments[4], arguments[5], arguments[6], arguments[7]
    thread, threads = np.int64(call(arguments[8])), np.int64(call(arguments[9]))
    blocks = (n + _FEATURES - 1) // _FEATURES
    for block in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        first = block * _FEATURES
        whole = first + _FEATURES <= n
        for token in range(0, m, _TOKENS):
            tokens = min(np.int64(_TOKENS), m - token)
            place = out + (token * n + first) * 2
            # The last features may be fewer than a block: their results go by way of a spare place.
            target, stride = (place, n * 2) if whole else (spare, np.int64(_FEATURES * 2))
            _any_tile(
                tokens, x + token * k * 2, k * 2, weight + first * k * 2, bias + first * 4, k // 2, target, stride
            )
            if not whole:
                _copy(spare, place, tokens, n - first, n)


def _in_blocks(weight: torch.Tensor) -> torch.Tensor:
    """Weights (n, k) as the tiles read them: (blocks, k / 2, features of a block, 2), features past n being 0."""
    n, k = weight.shape
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -n % _FEATURES))
    return padded.view(-1, _FEATURES, k // 2, 2).permute(0, 2, 1, 3).contiguous()


class DottingLinear:
    """The product on weights in blocks, a copy that lives as long as its layer.

    Raises:
        LookupError: the processor or torch's thread pool cannot run it, or there is no memory for copies.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        if not llvm.get_host_cpu_features().get("avx512bf16"):
            raise LookupError("no bfloat16 dot products")
        self._weights = WeightCopies(layers, _in_blocks)
        self._run = Parallel(_share, 8)

    def bind(self, layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
        """The layer's forward on its weights as they are now."""
        if layer.in_features % 2:
            return partial(torch.nn.functional.linear, weight=layer.weight, bias=layer.bias)
        bias = torch.zeros(layer.out_features + -layer.out_features % _FEATURES)
        if layer.bias is not None:
            bias[: layer.out_features] = layer.bias.detach()
        return partial(self._forward, self._weights(layer), bias, layer.out_features)

    def _forward(self, weight: torch.Tensor, bias: torch.Tensor, n: int, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        k = x.shape[-1]
        out = x.new_empty(*x.shape[:-1], n)
        spare = x.new_empty(_TOKENS * _FEATURES) if n % _FEATURES else out
        addresses = (tensor.data_ptr() for tensor in (x, weight, bias, out, spare))
        self._run(x.numel() // k, k, n, *addresses)
        return out
