"""bfloat16 matrix products for a few tokens, on CPUs whose matrix library has no bfloat16 instructions to use.

There a product with m tokens costs m times that with one, so that verifying a draft could never pay. This kernel reads
each weight once for all of them; like the library's, it multiplies and adds in float32. What it gives for a token does
not depend on how many others are computed with it.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from aded.kernels.jit import jit, jit_with
from aded.kernels.openmp import call, pointer

_FEATURES = 32  # output features a thread's share is a multiple of
_TOKENS = 64  # tokens whose inputs stay in a core's cache meanwhile
_INPUTS = 512  # inputs of four features, widened to float32, that fit the nearest cache
_FASTMATH = {"reassoc", "contract", "nsz"}


@jit_with(inline="always")
def widen(bits):
    """The float32 of bfloat16 bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@jit_with(inline="always")
def narrow(value):
    """bfloat16 bits of a float32, rounded to nearest even."""
    if value != value:
        return np.uint16(0x7FC0)
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@jit
def widen_row(bits, out):
    """The float32 of a row of bfloat16 bits, into `out`."""
    for j in range(len(bits)):
        out[j] = widen(bits[j])


@jit_with(fastmath=_FASTMATH)
def _add_products(a, b, r0, r1, r2, r3, sum_a, sum_b):
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


@jit
def _multiply(x, weight, bias, out, begin, end):
    """out = x @ weight.T + bias for features `begin` to `end`; all are bfloat16 bits, `bias` may be empty."""
    m, k = x.shape
    wide = np.zeros((min(m + m % 2, _TOKENS), k), np.float32)
    rows = np.empty((4, min(k, _INPUTS)), np.float32)
    sums = np.empty((_TOKENS, 4), np.float32)
    for chunk in range(0, m, _TOKENS):
        tokens = min(m - chunk, _TOKENS)
        for i in range(tokens):
            widen_row(x[chunk + i], wide[i])
        for first in range(begin, end, 4):
            sums[:] = 0
            for start in range(0, k, _INPUTS):
                stop = min(k, start + _INPUTS)
                for r in range(4):
                    widen_row(weight[min(first + r, end - 1), start:stop], rows[r])
                # Tokens go two by two; an odd one goes with whatever stands beside it, so that its sums are the same.
                for i in range(0, tokens, 2):
                    a, b = wide[i, start:stop], wide[i + 1, start:stop]
                    _add_products(a, b, rows[0], rows[1], rows[2], rows[3], sums[i], sums[i + 1])
            for i in range(tokens):
                for r in range(min(4, end - first)):
                    total = sums[i, r]
                    if len(bias):
                        total += widen(bias[first + r])
                    out[chunk + i, first + r] = narrow(total)


@jit
def operands(arguments):
    """What a thread's share of a product reads and writes, and its features: x, weight, bias, out, begin, end.

    See `share` for the arguments.
    """
    m, k, n = arguments[0], arguments[1], arguments[2]
    x = carray(pointer(arguments[3]), (m, k))
    weight = carray(pointer(arguments[4]), (n, k))
    bias = carray(pointer(arguments[5]), (n if arguments[5] else 0,))
    out = carray(pointer(arguments[6]), (m, n))
    thread, threads = call(arguments[7]), call(arguments[8])
    blocks = (n + _FEATURES - 1) // _FEATURES
    begin, end = blocks * thread // threads * _FEATURES, blocks * (thread + 1) // threads * _FEATURES
    return x, weight, bias, out, begin, min(end, n)


def share(arguments):
    """One thread's share of a product, in bfloat16: out (m, n) = x (m, k) @ weight (n, k).T + bias (n,).

    Arguments: m, k, n; the addresses of x, weight, bias (0 for none) and out; the two functions of `Parallel`.
    """
    x, weight, bias, out, begin, end = operands(arguments)
    _multiply(x, weight, bias, out, begin, end)
