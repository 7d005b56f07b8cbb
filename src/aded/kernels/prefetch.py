"""Memory asked for before it is needed, from compiled loops."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def fetch(builder: Any, pointer: Any) -> None:
    """Have the cache line at a pointer fetched, without waiting for it; it may point anywhere."""
    pointer, word = builder.bitcast(pointer, ir.IntType(8).as_pointer()), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
    builder.call(function, [pointer, word(0), word(3), word(1)])  # to read, to keep, data


def _prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    """Have the first cache line of `array[row]` fetched, without waiting for it. The row is not checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, arguments[0])
        at = [arguments[1]] + [context.get_constant(types.intp, 0)] * (kind.ndim - 1)
        pointer = cgutils.get_item_pointer(context, builder, kind, view, at, wraparound=False, boundscheck=False)
        fetch(builder, pointer)
        return context.get_dummy_value()

    return types.void(array, row), generate


prefetch: Any = intrinsic(_prefetch)
