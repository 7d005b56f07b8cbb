"""bfloat16 linear layers for a few tokens, on CPUs whose matrix library has no bfloat16 instructions to use.

There a product with m tokens costs m times that with one, so that verifying a draft could never pay. This kernel reads
each weight once for all of them; like the library's, it multiplies and adds in float32. What it gives for a token does
not depend on how many others are computed with it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import threadpoolctl
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

__all__ = ["fast_linear"]

_FEATURES = 32  # output features a thread's share is a multiple of
_TOKENS = 64  # tokens whose inputs stay in a core's cache meanwhile
_INPUTS = 512  # inputs of four features, widened to float32, that fit the nearest cache
_FASTMATH = {"reassoc", "contract", "nsz"}

# Any: called in compiled code, without the typing context a type checker sees.
_compile_time: Any = intrinsic


@njit(cache=True, inline="always")
def _widen(bits):  # type: ignore[no-untyped-def]
    """The float32 of bfloat16 bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(cache=True, inline="always")
def _narrow(value):  # type: ignore[no-untyped-def]
    """bfloat16 bits of a float32, rounded to nearest even."""
    if value != value:
        return np.uint16(0x7FC0)
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(cache=True)
def _widen_row(bits, out):  # type: ignore[no-untyped-def]
    for j in range(len(bits)):
        out[j] = _widen(bits[j])


@njit(cache=True, fastmath=_FASTMATH)
def _add_products(a, b, r0, r1, r2, r3, sum_a, sum_b):  # type: ignore[no-untyped-def]
    """Add the inner products of two tokens with four features to their sums: as many as registers hold at once."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
    for j in range(len(a)):
        x, y, w0, w1, w2, w3 = a[j], b[j], r0[j], r1[j], r2[j], r3[j]
        a0 += x * w0
        a1 += x * w1
        a2 += x * w2
        a3 += x * w3
        b0 += y * w0
        b1 += y * w1
        b2 += y * w2
        b3 += y * w3
    sum_a[0] += a0
    sum_a[1] += a1
    sum_a[2] += a2
    sum_a[3] += a3
    sum_b[0] += b0
    sum_b[1] += b1
    sum_b[2] += b2
    sum_b[3] += b3


@njit(cache=True)
def _multiply(x, weight, bias, out, begin, end):  # type: ignore[no-untyped-def]
    """out = x @ weight.T + bias for features `begin` to `end`; all are bfloat16 bits, `bias` may be empty."""
    m, k = x.shape
    wide = np.zeros((min(m + m % 2, _TOKENS), k), np.float32)
    rows = np.empty((4, min(k, _INPUTS)), np.float32)
    sums = np.empty((_TOKENS, 4), np.float32)
    for chunk in range(0, m, _TOKENS):
        tokens = min(m - chunk, _TOKENS)
        for i in range(tokens):
            _widen_row(x[chunk + i], wide[i])
        for first in range(begin, end, 4):
            sums[:] = 0
            for start in range(0, k, _INPUTS):
                stop = min(k, start + _INPUTS)
                for r in range(4):
                    _widen_row(weight[min(first + r, end - 1), start:stop], rows[r])
                # Tokens go two by two; an odd one goes with whatever stands beside it, so that its sums are the same.
                for i in range(0, tokens, 2):
                    a, b = wide[i, start:stop], wide[i + 1, start:stop]
                    _add_products(a, b, rows[0], rows[1], rows[2], rows[3], sums[i], sums[i + 1])
            for i in range(tokens):
                for r in range(min(4, end - first)):
                    total = sums[i, r]
                    if len(bias):
                        total += _widen(bias[first + r])
                    out[chunk + i, first + r] = _narrow(total)


@_compile_time
def _pointer(typing_context, address):  # type: ignore[no-untyped-def]
    """An address as a pointer to 16-bit words."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.int64), generate


@_compile_time
def _call(typing_context, address):  # type: ignore[no-untyped-def]
    """The result of the C function `int f(void)` at an address."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        function = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(arguments[0], function.as_pointer()), [])

    return types.int32(types.int64), generate


def _share(arguments):  # type: ignore[no-untyped-def]
    """One thread's share of a product; what it needs comes as nine numbers, see `_Kernel`."""
    m, k, n = arguments[0], arguments[1], arguments[2]
    x = carray(_pointer(arguments[3]), (m, k))
    weight = carray(_pointer(arguments[4]), (n, k))
    bias = carray(_pointer(arguments[5]), (n if arguments[5] else 0,))
    out = carray(_pointer(arguments[6]), (m, n))
    thread, threads = _call(arguments[7]), _call(arguments[8])
    blocks = (n + _FEATURES - 1) // _FEATURES
    begin, end = blocks * thread // threads * _FEATURES, blocks * (thread + 1) // threads * _FEATURES
    _multiply(x, weight, bias, out, begin, min(end, n))


class _Kernel:
    """The product on the threads torch itself uses: a second pool would fight the first for the same cores.

    Raises:
        LookupError: torch's thread pool cannot be found here.
    """

    def __init__(self) -> None:
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
        for pool in pools:
            library = ctypes.CDLL(pool["filepath"])
            if "torch" in pool["filepath"] or len(pools) == 1:
                break
        else:
            raise LookupError("no OpenMP runtime of torch's")
        try:
            self._parallel = library.GOMP_parallel
            functions = (library.omp_get_thread_num, library.omp_get_num_threads)
        except AttributeError as error:
            raise LookupError("torch's OpenMP runtime has no GOMP_parallel") from error
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        self._functions = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
        self._share = cfunc(types.void(types.CPointer(types.int64)), cache=True)(_share)
        self._arguments: Callable[..., Any] = ctypes.c_int64 * 9

    def __call__(self, layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        n, k = layer.out_features, layer.in_features
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], n)
        bias = 0 if layer.bias is None else layer.bias.data_ptr()
        addresses = (x.data_ptr(), layer.weight.data_ptr(), bias, out.data_ptr())
        arguments = self._arguments(x.numel() // k, k, n, *addresses, *self._functions)
        self._parallel(self._share.address, ctypes.addressof(arguments), torch.get_num_threads(), 0)
        return out


class _Forward:
    """A linear layer's forward that runs on the kernel in threads that asked for it, but for a single token."""

    def __init__(self, layer: torch.nn.Linear, kernel: _Kernel) -> None:
        self._plain, self._layer, self._kernel = layer.forward, layer, kernel

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        # A step without a draft stays exactly the plain step; there the library is as fast.
        if not getattr(_ACTIVE, "on", False) or input.dtype != torch.bfloat16 or input.numel() == input.shape[-1]:
            return self._plain(input)
        return self._kernel(self._layer, input)


_ACTIVE = threading.local()
_SWAP = threading.Lock()
_USERS: dict[int, int] = {}
_CHOSEN: dict[tuple[int, int], _Kernel | None] = {}


def _layers(model: torch.nn.Module) -> list[torch.nn.Linear]:
    return [
        layer
        for layer in model.modules()
        if type(layer) is torch.nn.Linear
        and layer.weight.dtype == torch.bfloat16
        and layer.weight.device.type == "cpu"
        and layer.weight.is_contiguous()
        and type(layer.__dict__.get("forward")) in (type(None), _Forward)  # hooks set a forward of their own
    ]


def _choose(layers: list[torch.nn.Linear]) -> _Kernel | None:
    """The kernel if it is the faster one here, timed on this model's commonest shape at eight tokens."""
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None  # the library has instructions for it: compiling ours only to lose would cost seconds
    try:
        kernel = _Kernel()
    except LookupError:
        return None
    shapes = [tuple(layer.weight.shape) for layer in layers]
    layer = layers[shapes.index(max(set(shapes), key=shapes.count))]
    x = torch.zeros(8, layer.in_features, dtype=torch.bfloat16)

    def fastest(call: Callable[[torch.Tensor], Any]) -> float:
        times = []
        for _ in range(6):
            started = perf_counter()
            call(x)
            times.append(perf_counter() - started)
        return min(times)

    return kernel if fastest(lambda x: kernel(layer, x)) < fastest(layer.forward) else None


@contextmanager
def fast_linear(model: Any) -> Iterator[None]:
    """Within it, and in this thread, the model's bfloat16 linear layers run on the kernel where that is faster.

    Nothing changes on other devices, in other data types, and on CPUs with bfloat16 matrix instructions.
    """
    layers = [] if getattr(_ACTIVE, "on", False) else _layers(model)
    if not layers:
        yield
        return
    key = (layers[0].weight.data_ptr(), torch.get_num_threads())
    if key not in _CHOSEN:
        _CHOSEN[key] = _choose(layers)
    kernel = _CHOSEN[key]
    if kernel is None:
        yield
        return
    with _SWAP:
        _USERS[id(model)] = _USERS.get(id(model), 0) + 1
        if _USERS[id(model)] == 1:
            for layer in layers:
                layer.forward = _Forward(layer, kernel)  # type: ignore[method-assign]
    _ACTIVE.on = True
    try:
        yield
    finally:
        _ACTIVE.on = False
        with _SWAP:
            _USERS[id(model)] -= 1
            if not _USERS[id(model)]:
                del _USERS[id(model)]
                for layer in layers:
                    del layer.forward
