"""A checksum at the speed of memory: whether weights of which a copy is kept have changed, however that was done."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from aded.kernels.openmp import call, compile_time
from aded.kernels.vectors import I64, INTS, LANES, load, loop, store

PARTS = 8  # of an array, each summed by itself: as many threads can take part, and the sum does not depend on them
BLOCK = 256  # bytes read at once
_SUMS = 4  # registers of sums
WORDS = _SUMS * LANES  # 32-bit words of a part's checksum


@compile_time
def _sum(typing_context, address, blocks, out):
    """Sum `blocks` blocks into `WORDS` words at `out`: rotated by 5 bits, then added, word by word.

    Each word's sum is another for another value in any one place.
    """

    def generate(context, builder, signature, arguments):
        address, blocks, out = arguments
        zero, left, right = (ir.Constant(INTS, [value] * LANES) for value in (0, 5, 27))
        index, sums, close = loop(builder, blocks, [zero] * _SUMS)
        results = []
        for i, before in enumerate(sums):
            place = builder.add(address, builder.add(builder.mul(index, I64(BLOCK)), I64(4 * LANES * i)))
            turned = builder.or_(builder.shl(before, left), builder.lshr(before, right))
            results.append(builder.add(turned, load(builder, place, INTS, 2)))
        close(results)
        for i, result in enumerate(results):
            store(builder, result, builder.add(out, I64(4 * LANES * i)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def share(arguments):
    """One thread's parts of a checksum, uint32 (PARTS, WORDS).

    Arguments: the array's address and its whole blocks; the checksum's address, which holds zeros; the two functions of
    `Parallel`.
    """
    address, blocks, out = arguments[0], arguments[1], arguments[2]
    thread, threads = np.int64(call(arguments[3])), np.int64(call(arguments[4]))
    for part in range(thread, PARTS, threads):
        first, last = blocks * part // PARTS, blocks * (part + 1) // PARTS
        if last > first:
            _sum(address + first * BLOCK, last - first, out + part * WORDS * 4)
