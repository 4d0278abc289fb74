"""Vectors of 16 lanes for numba: the operations that the kernels use.

A kernel that says `fma(load_f32(x, i), w, total)` gets exactly those instructions, on every CPU:
LLVM splits a vector that is wider than the machine's registers. Operations round as IEEE 754 says,
in the order written (no reassociation, no contraction), so that results do not depend on the CPU's
vector width.

Arrays are passed whole, with an offset in elements, as `load_f32(x, offset)`; nothing is
bounds-checked here: the shapes are checked where the arrays are made.
"""

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from codegen_cli.kernels.fp16 import f32_to_fp16_bits, fp16_bits_to_f32
from codegen_cli.kernels.vector_ir import (
    I8,
    I16,
    I32,
    ArrayArgument,
    broadcast,
    call_intrinsic,
    constant,
    f32x16,
    fold_halves,
    i32x16,
)
from codegen_cli.machine.prefetch import HINTS, prefetch_choice
from quantize.description.formats import LANES

PREFETCH = prefetch_choice()
"""How this CPU is asked for what comes next."""

# --- loads and stores ---------------------------------------------------------------------------


@intrinsic
def load_f32(typing_context, array, offset):
    """array[offset : offset + 16] of a float32 array."""

    def generate(context, builder, signature, arguments):
        array, offset = arguments
        return ArrayArgument(context, builder, signature.args[0], array).load(offset, f32x16.llvm)

    return f32x16(array, types.intp), generate


@intrinsic
def prefetch(typing_context, array, offset):
    """Ask memory for the cache line of array[offset]; it may lie outside, as nothing is read."""

    def generate(context, builder, signature, arguments):
        array, offset = arguments
        locality = HINTS[PREFETCH.hint]
        if locality is not None:
            pointer = ArrayArgument(context, builder, signature.args[0], array).pointer(offset, I8)
            for_reading, data = ir.Constant(I32, 0), ir.Constant(I32, 1)
            name, hint = "llvm.prefetch.p0", ir.Constant(I32, locality)
            call_intrinsic(builder, name, ir.VoidType(), pointer, for_reading, hint, data)
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def store_f32(typing_context, array, offset, value):
    """array[offset : offset + 16] = value."""

    def generate(context, builder, signature, arguments):
        array, offset, value = arguments
        ArrayArgument(context, builder, signature.args[0], array).store(offset, value)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), generate


@intrinsic
def load_f16(typing_context, array, offset):
    """16 fp16 values (a uint16 array holds their bits) as float32: exact."""

    def generate(context, builder, signature, arguments):
        halves = ir.VectorType(I16, LANES)
        array, offset = arguments
        bits = ArrayArgument(context, builder, signature.args[0], array).load(offset, halves)
        return fp16_bits_to_f32(builder, bits)

    return f32x16(array, types.intp), generate


@intrinsic
def load_one_f16(typing_context, array, offset):
    """The fp16 value whose bits array[offset] holds, as float32: exact."""

    def generate(context, builder, signature, arguments):
        array, offset = arguments
        bits = ArrayArgument(context, builder, signature.args[0], array).load(offset, I16)
        return fp16_bits_to_f32(builder, bits)

    return types.float32(array, types.intp), generate


@intrinsic
def store_f16(typing_context, array, offset, value):
    """Round one float32 to fp16 (nearest, ties to even) and store its bits at array[offset]."""

    def generate(context, builder, signature, arguments):
        array, offset, value = arguments
        bits = f32_to_fp16_bits(builder, value)
        ArrayArgument(context, builder, signature.args[0], array).store(offset, bits)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), generate


@intrinsic
def store_i8x16(typing_context, array, offset, value):
    """Store 16 int32 lanes, each within [-128, 127], as int8."""

    def generate(context, builder, signature, arguments):
        array, offset, value = arguments
        narrow = builder.trunc(value, ir.VectorType(I8, LANES))
        ArrayArgument(context, builder, signature.args[0], array).store(offset, narrow)
        return context.get_dummy_value()

    return types.void(array, types.intp, i32x16), generate


# --- lane by lane -------------------------------------------------------------------------------


@intrinsic
def every_lane(typing_context, value):
    """A vector with the same float32 in all 16 lanes."""

    def generate(context, builder, signature, arguments):
        return broadcast(builder, arguments[0], LANES)

    return {types.float32: f32x16}[value](value), generate


@intrinsic
def lane_numbers(typing_context):
    """0, 1, .. 15 as float32."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(f32x16.llvm, list(map(float, range(LANES))))

    return f32x16(), generate


def _binary(result, first, second, build):
    @intrinsic
    def operation(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            return build(builder, *arguments)

        return result(first, second), generate

    return operation


_add_f32 = _binary(f32x16, f32x16, f32x16, lambda builder, a, b: builder.fadd(a, b))
_subtract_f32 = _binary(f32x16, f32x16, f32x16, lambda builder, a, b: builder.fsub(a, b))
_multiply_f32 = _binary(f32x16, f32x16, f32x16, lambda builder, a, b: builder.fmul(a, b))
_divide_f32 = _binary(f32x16, f32x16, f32x16, lambda builder, a, b: builder.fdiv(a, b))
_add_i32 = _binary(i32x16, i32x16, i32x16, lambda builder, a, b: builder.add(a, b))


@overload(operator.add)
def _add(a, b):
    if a == f32x16 and b == f32x16:
        return lambda a, b: _add_f32(a, b)
    if a == i32x16 and b == i32x16:
        return lambda a, b: _add_i32(a, b)
    return None


@overload(operator.sub)
def _subtract(a, b):
    return (lambda a, b: _subtract_f32(a, b)) if a == f32x16 and b == f32x16 else None


@overload(operator.mul)
def _multiply(a, b):
    return (lambda a, b: _multiply_f32(a, b)) if a == f32x16 and b == f32x16 else None


@overload(operator.truediv)
def _divide(a, b):
    return (lambda a, b: _divide_f32(a, b)) if a == f32x16 and b == f32x16 else None


def _select_by(comparison):
    def build(builder, a, b):
        return builder.select(builder.fcmp_ordered(comparison, a, b), a, b)

    return _binary(f32x16, f32x16, f32x16, build)


# Selects, not maxnum: where a lane of `a` is not a number, `b` is taken.
larger = _select_by(">")
smaller = _select_by("<")


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, signature, arguments):
        return call_intrinsic(builder, "llvm.fma.v16f32", f32x16.llvm, *arguments)

    return f32x16(f32x16, f32x16, f32x16), generate


@intrinsic
def absolute(typing_context, value):
    def generate(context, builder, signature, arguments):
        return call_intrinsic(builder, "llvm.fabs.v16f32", f32x16.llvm, arguments[0])

    return f32x16(f32x16), generate


@intrinsic
def round_half_even(typing_context, value):
    def generate(context, builder, signature, arguments):
        return call_intrinsic(builder, "llvm.roundeven.v16f32", f32x16.llvm, arguments[0])

    return f32x16(f32x16), generate


@intrinsic
def to_i32(typing_context, value):
    """float32 -> int32, for lanes that hold whole numbers."""

    def generate(context, builder, signature, arguments):
        return builder.fptosi(arguments[0], i32x16.llvm)

    return i32x16(f32x16), generate


@intrinsic
def times_power_of_two(typing_context, value, exponent):
    """value * 2**exponent by adding to the exponent bits: the result must be a normal number."""

    def generate(context, builder, signature, arguments):
        value, exponent = arguments
        shifted = builder.shl(exponent, constant(i32x16.llvm, 23))
        bits = builder.add(builder.bitcast(value, i32x16.llvm), shifted)
        return builder.bitcast(bits, f32x16.llvm)

    return f32x16(f32x16, i32x16), generate


@intrinsic
def first_lanes(typing_context, value, count, otherwise):
    """Lanes 0 .. count-1 of `value`; the rest hold `otherwise`."""

    def generate(context, builder, signature, arguments):
        value, count, otherwise = arguments
        lane = ir.Constant(i32x16.llvm, list(range(LANES)))
        kept = builder.icmp_signed("<", lane, broadcast(builder, count, LANES))
        return builder.select(kept, value, broadcast(builder, otherwise, LANES))

    return f32x16(f32x16, types.int32, types.float32), generate


@intrinsic
def where_less(typing_context, a, b, then, otherwise):
    """`then` in the lanes where a < b, else `otherwise`, as where a or b is not a number."""

    def generate(context, builder, signature, arguments):
        a, b, then, otherwise = arguments
        return builder.select(builder.fcmp_ordered("<", a, b), then, otherwise)

    return f32x16(f32x16, f32x16, f32x16, f32x16), generate


@intrinsic
def with_sign_of(typing_context, magnitude, sign):
    """|magnitude| with the sign bits of `sign`."""

    def generate(context, builder, signature, arguments):
        return call_intrinsic(builder, "llvm.copysign.v16f32", f32x16.llvm, *arguments)

    return f32x16(f32x16, f32x16), generate


# --- across lanes: a fixed tree of halves -------------------------------------------------------


@intrinsic
def sum_lanes(typing_context, value):
    """Lane i + lane i+8, then +4, +2, +1."""
    scalar = {f32x16: types.float32, i32x16: types.int32}[value]

    def generate(context, builder, signature, arguments):
        add = builder.fadd if value == f32x16 else builder.add
        return fold_halves(builder, arguments[0], add)

    return scalar(value), generate


@intrinsic
def largest_lane(typing_context, value):
    def generate(context, builder, signature, arguments):
        def combine(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return fold_halves(builder, arguments[0], combine)

    return types.float32(f32x16), generate
