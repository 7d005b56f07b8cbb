"""Compiled code on the OpenMP threads that torch uses: a second pool would fight the first for the same cores."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import threadpoolctl
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from aded.kernels.jit import callback


class UnavailableError(Exception):
    """A kernel cannot run here; the message says why."""


# Any: called in compiled code, without the typing context a type checker sees.
compile_time: Any = intrinsic


@compile_time
def pointer(typing_context, address):
    """An address as a pointer to 16-bit words."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.int64), generate


@compile_time
def call(typing_context, address):
    """The result of the C function `int f(void)` at an address."""

    def generate(context, builder, signature, arguments):
        function = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(arguments[0], function.as_pointer()), [])

    return types.int32(types.int64), generate


class Parallel:
    """A function that all threads of torch's pool run, each its share. Torch must be imported before.

    Args:
        share: compiled here; takes a pointer to int64 arguments, the last two of which are the addresses of
            functions that say which thread this is and how many there are (see `call`).
        count: how many arguments there are before those two.

    Raises:
        UnavailableError: torch's thread pool cannot be found here.
    """

    def __init__(self, share: Callable[..., None], count: int) -> None:
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
        for pool in pools:
            library = ctypes.CDLL(pool["filepath"])
            if "torch" in pool["filepath"] or len(pools) == 1:
                break
        else:
            raise UnavailableError("no OpenMP runtime of torch's")
        try:
            self._parallel = library.GOMP_parallel
            functions = (library.omp_get_thread_num, library.omp_get_num_threads)
        except AttributeError as error:
            raise UnavailableError("torch's OpenMP runtime has no GOMP_parallel") from error
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        self._functions = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
        self._share = callback(types.void(types.CPointer(types.int64)))(share)
        self._address = self._share.address
        self._arguments: Callable[..., Any] = ctypes.c_int64 * (count + 2)

    def __call__(self, threads: int, *arguments: int) -> None:
        """Run it on so many threads, and return when every one is done."""
        block = self._arguments(*arguments, *self._functions)
        self._parallel(self._address, ctypes.addressof(block), threads, 0)
