"""Vectors of 16 float32 in compiled code: what numba has no words for, written for LLVM.

`builder` is always llvmlite's, and values are LLVM's.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from aded.kernels.openmp import compile_time
from aded.kernels.prefetch import fetch

llvm.initialize_native_asmparser()  # for the two instructions that LLVM has no portable name for

LANES = 16  # float32 values in a register of 512 bits

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, INTS, HALVES = (ir.VectorType(kind, LANES) for kind in (F32, I32, I16))

ZERO = ir.Constant(FLOATS, [0.0] * LANES)

AHEAD = 256  # bytes of a row that are fetched before they are needed

_DOT = ir.FunctionType(FLOATS, [FLOATS, INTS, INTS]), "vdpbf16ps $3, $2, $0", "=v,0,v,v"
_NARROW = ir.FunctionType(HALVES, [FLOATS]), "vcvtneps2bf16 $1, $0", "=v,v"


def has_bf16_dot() -> bool:
    """Whether this processor multiplies bfloat16 pairs in one instruction (AVX-512 BF16)."""
    return bool(llvm.get_host_cpu_features().get("avx512bf16"))


def has_fma() -> bool:
    """Whether this processor multiplies and adds in one instruction, vectors of eight float32 at least."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("fma") and features.get("avx2"))


def load(builder, address, kind, align):
    """What lies at an address."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(builder, value, address, align=4):
    """Put a value at an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def pick(builder, a, b, lanes):
    """These lanes of two vectors, one behind the other."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def every(builder, scalar):
    """A scalar in all lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    return pick(builder, builder.insert_element(undefined, scalar, I32(0)), undefined, [0] * LANES)


def intrinsic(builder, name, *values):
    """What LLVM's function of this name makes of float32 values or vectors."""
    kind = values[0].type
    suffix = f"v{LANES}f32" if kind == FLOATS else "f32"
    function = ir.FunctionType(kind, [kind] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.{suffix}"), values)


def dot(builder, sums, a, b):
    """16 sums and the products of 16 pairs of bfloat16, second halves first, each rounded when it is added."""
    if has_bf16_dot():
        return builder.call(ir.InlineAsm(*_DOT), [sums, a, b])
    for x, y in zip(halves(builder, a), halves(builder, b), strict=True):
        sums = intrinsic(builder, "fma", x, y, sums)
    return sums


def halves(builder, pairs):
    """The second and the first of 16 pairs of bfloat16, as float32."""
    sixteen, high = ir.Constant(INTS, [16] * LANES), ir.Constant(INTS, [-65536] * LANES)
    return [builder.bitcast(x, FLOATS) for x in (builder.and_(pairs, high), builder.shl(pairs, sixteen))]


def narrowed(builder, x):
    """Rounded to 16 bfloat16, by an instruction of processors that `has_bf16_dot`."""
    return builder.call(ir.InlineAsm(*_NARROW), [x])


def widened(builder, halves):
    """The float32 values of 16 bfloat16."""
    wide = builder.shl(builder.zext(halves, INTS), ir.Constant(INTS, [16] * LANES))
    return builder.bitcast(wide, FLOATS)


def folded(builder, sums):
    """The sums of the lanes of four vectors, float32 (4,): halves are added, then neighbours, neighbours and halves."""
    half = LANES // 2

    def split(a, b, lanes, others):
        """Some lanes of two vectors and the others, added."""
        return builder.fadd(pick(builder, a, b, lanes), pick(builder, a, b, others))

    low, high = [*range(half), *range(LANES, LANES + half)], [*range(half, LANES), *range(LANES + half, 2 * LANES)]
    first, last = (split(a, b, low, high) for a, b in (sums[:2], sums[2:]))  # of two vectors, eight lanes each
    four = split(first, last, range(0, 2 * LANES, 2), range(1, 2 * LANES, 2))  # four lanes a vector
    two = split(four, four, range(0, LANES, 2), range(1, LANES, 2))  # two lanes a vector
    return split(two, two, range(0, half, 2), range(1, half, 2))


def exponential(builder, x):
    """e to 16 powers, none above 0, as the library's vectors compute it.

    2 to the power of i + f is i as a float's exponent and 2^f - 1 as its fraction; a cubic in f stands for what the
    fraction is less than f (torch's `fexp_u20`, after Malossi et al., 2015).
    """

    def constant(value):
        return every(builder, ir.Constant(F32, float(np.float32(value))))

    power = builder.fmul(x, constant(1.4426950408889634))  # times log2(e)
    part = builder.fsub(power, intrinsic(builder, "floor", power))
    less = constant(-0.079204240219773236)
    for factor in (-0.22433836478672356, 0.30354260500649682, 0.00010703434948458272):
        less = intrinsic(builder, "fma", part, less, constant(factor))
    bits = intrinsic(builder, "fma", constant(2**23), builder.fsub(power, less), constant(2**23 * 127))
    below = builder.fcmp_ordered("<", x, constant(-87.33654475))  # the least float has this logarithm
    none = ir.Constant(INTS, [0] * LANES)
    return builder.bitcast(builder.select(below, none, builder.fptosi(bits, INTS)), FLOATS)


def accurate_exponential(builder, x):
    """e to 16 powers, none above 0, to about two units in the last place.

    With x = n ln 2 + r, it is e^r, a polynomial, on n as a float's exponent; ln 2 is two constants, the first of which
    has few enough bits for n times it to be exact (Cody and Waite, 1980; coefficients of the Cephes library's `expf`).
    """

    def constant(value):
        return every(builder, ir.Constant(F32, float(np.float32(value))))

    n = intrinsic(builder, "rint", builder.fmul(x, constant(1.4426950408889634)))  # times log2(e)
    rest = intrinsic(builder, "fma", n, constant(-0.693359375), x)
    rest = intrinsic(builder, "fma", n, constant(2.12194440e-4), rest)
    result = constant(1.9875691500e-4)
    factors = 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0
    for factor in factors:
        result = intrinsic(builder, "fma", result, rest, constant(factor))
    power = builder.shl(builder.fptosi(n, INTS), ir.Constant(INTS, [23] * LANES))
    below = builder.fcmp_ordered("<", x, constant(-87.0))  # what is less would be no normal float
    bits = builder.add(builder.bitcast(result, INTS), power)
    return builder.bitcast(builder.select(below, ir.Constant(INTS, [0] * LANES), bits), FLOATS)


def rounded(builder, x):
    """Rounded to bfloat16, as float32."""
    bits = builder.bitcast(x, INTS)
    odd = builder.and_(builder.lshr(bits, ir.Constant(INTS, [16] * LANES)), ir.Constant(INTS, [1] * LANES))
    bits = builder.add(builder.add(bits, odd), ir.Constant(INTS, [0x7FFF] * LANES))
    return builder.bitcast(builder.and_(bits, ir.Constant(INTS, [-65536] * LANES)), FLOATS)


def turned(builder, rows):
    """16 vectors whose lanes are those of 16 given ones at their place: columns as rows."""
    for width in (1, 2, 4, 8):  # exchange the off-diagonal squares of this width
        first = [lane if not lane & width else LANES + lane - width for lane in range(LANES)]
        last = [lane + width if not lane & width else LANES + lane for lane in range(LANES)]
        done = list(rows)
        for i in (row for row in range(LANES) if not row & width):
            done[i] = pick(builder, rows[i], rows[i + width], first)
            done[i + width] = pick(builder, rows[i], rows[i + width], last)
        rows = done
    return rows


@compile_time
def fma(typing_context, a, b, c):
    """a * b + c of float32 numbers, rounded once."""
    return types.float32(*[types.float32] * 3), lambda context, builder, _, values: intrinsic(builder, "fma", *values)


def loop(builder, count, starts):
    """Open a loop that runs `count` times, at least once: (index, values carried on, how to close it)."""
    before, body, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(body)
    builder.position_at_end(body)
    index, carried = builder.phi(I64), [builder.phi(start.type) for start in starts]

    def close(results):
        following = builder.add(index, I64(1))
        index.add_incoming(I64(0), before)
        index.add_incoming(following, body)
        for phi, start, result in zip(carried, starts, results, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(result, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, after)
        builder.position_at_end(after)

    return index, carried, close


def cases(builder, count, most, write):
    """Do what `write(n)` writes for that n from 1 to `most` which `count` is."""
    after = builder.append_basic_block()
    switch = builder.switch(count, after)
    for n in range(1, most + 1):
        block = builder.append_basic_block()
        switch.add_case(I64(n), block)
        builder.position_at_end(block)
        write(n)
        builder.branch(after)
    builder.position_at_end(after)


def _turn(ahead: int) -> Any:
    """Write the columns of up to 16 rows of 64 bytes as rows; the last row is read again for those after it."""

    @compile_time
    def turn(typing_context, source, stride, last, target, target_stride):
        def generate(context, builder, signature, arguments):
            source, stride, last, target, target_stride = arguments
            rows = []
            for i in range(LANES):
                row = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
                place = builder.add(source, builder.mul(stride, row))
                rows.append(load(builder, place, FLOATS, 2))
                if ahead:
                    fetch(builder, builder.inttoptr(builder.add(place, I64(ahead)), I8.as_pointer()))
            for i, row in enumerate(turned(builder, rows)):
                store(builder, row, builder.add(target, builder.mul(target_stride, I64(i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return turn


turn, turn_ahead = _turn(0), _turn(AHEAD)


@compile_time
def finish(typing_context, sums, bias, out, count):
    """16 sums, with the bias unless its address is 0, as bfloat16; so many of them are written."""

    def generate(context, builder, signature, arguments):
        sums, bias, out, count = arguments
        bare = load(builder, sums, FLOATS, 4)
        biased = builder.icmp_signed("!=", bias, I64(0))
        more = builder.fadd(bare, load(builder, builder.select(biased, bias, sums), FLOATS, 4))
        result = narrowed(builder, builder.select(biased, more, bare))
        whole = builder.icmp_signed(">=", count, I64(LANES))
        with builder.if_else(whole) as (all_of_them, some):
            with all_of_them:
                store(builder, result, out, 2)
            with some:
                spare = cgutils.alloca_once_value(builder, result)
                start = builder.ptrtoint(spare, I64)
                with cgutils.for_range(builder, count) as lane:
                    at = builder.mul(lane.index, I64(2))
                    store(builder, load(builder, builder.add(start, at), I16, 2), builder.add(out, at), 2)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
