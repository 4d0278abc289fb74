"""Packed bytes of weights and activations -> exact int32 sums, by the best instruction there is.

dot_ir.py has one way to compute `dot_4_bytes` for each kernel path.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from codegen_cli.kernels.dot_ir import DOT_PRODUCTS
from codegen_cli.kernels.vector_ir import (
    I16,
    I32,
    Vector,
    broadcast,
    constant,
    i32x16,
    load_unaligned,
)
from codegen_cli.machine.cpu import kernel_path
from quantize.description.formats import (
    INT4_LOWEST_ZERO,
    INT4_ZERO_BITS,
    INT8_ZERO,
    LANES,
    WORD,
)

i8x64 = Vector("i8", WORD * LANES)  # a word for each lane


@intrinsic
def load_bytes(typing_context, array, offset):
    """64 bytes as they are."""

    def generate(context, builder, signature, arguments):
        return load_unaligned(context, builder, signature.args[0], *arguments, i8x64.llvm)

    return i8x64(array, types.intp), generate


@intrinsic
def load_int8_codes(typing_context, array, offset):
    """64 codes of int8 as dot_4_bytes takes them, in which int8_zeros stand for 0.

    They are stored as code + 128; flipping the top bit makes the signed code of that.
    """

    def generate(context, builder, signature, arguments):
        stored = load_unaligned(context, builder, signature.args[0], *arguments, i8x64.llvm)
        if not _dot_product().takes_signed:
            return stored
        return builder.xor(stored, constant(i8x64.llvm, INT8_ZERO))

    return i8x64(array, types.intp), generate


@intrinsic
def int8_zeros(typing_context):
    """What stands for 0 in load_int8_codes, in 16 lanes."""

    def generate(context, builder, signature, arguments):
        return constant(i32x16.llvm, 0 if _dot_product().takes_signed else INT8_ZERO)

    return i32x16(), generate


@intrinsic
def load_4_bytes_everywhere(typing_context, array, offset):
    """4 bytes, repeated in each of the 16 lanes."""

    def generate(context, builder, signature, arguments):
        word = load_unaligned(context, builder, signature.args[0], *arguments, I32)
        return builder.bitcast(broadcast(builder, word, LANES), i8x64.llvm)

    return i8x64(array, types.intp), generate


@intrinsic
def load_int4_zeros(typing_context, scales, offset):
    """The zero points, in quarter steps, that 16 int4 scales name: 14 + the lowest 5 bits."""

    def generate(context, builder, signature, arguments):
        halves = ir.VectorType(I16, LANES)
        bits = load_unaligned(context, builder, signature.args[0], *arguments, halves)
        low = builder.and_(bits, constant(halves, (1 << INT4_ZERO_BITS) - 1))
        return builder.zext(builder.add(low, constant(halves, INT4_LOWEST_ZERO)), i32x16.llvm)

    return i32x16(scales, types.intp), generate


@intrinsic
def four_times_low_nibbles(typing_context, value):
    """4 * (byte & 15) of each byte."""

    def generate(context, builder, signature, arguments):
        return _nibbles_in_place(builder, builder.shl, arguments[0])

    return i8x64(i8x64), generate


@intrinsic
def four_times_high_nibbles(typing_context, value):
    """4 * (byte >> 4) of each byte."""

    def generate(context, builder, signature, arguments):
        return _nibbles_in_place(builder, builder.lshr, arguments[0])

    return i8x64(i8x64), generate


def _nibbles_in_place(builder, shift, value):
    """Shift by 2, as words (no CPU shifts bytes), and keep bits 2-5 of each byte."""
    words = shift(builder.bitcast(value, i32x16.llvm), constant(i32x16.llvm, 2))
    kept = builder.and_(words, constant(i32x16.llvm, 0x3C3C3C3C))
    return builder.bitcast(kept, i8x64.llvm)


@intrinsic
def dot_4_bytes(typing_context, total, weights, activations):
    """total[lane] += sum over 4 bytes of weights x signed activations: exact in int32.

    weights  as load_int8_codes has them, or unsigned and below 128
    """

    def generate(context, builder, signature, arguments):
        return _dot_product().build(builder, *arguments)

    return i32x16(i32x16, i8x64, i8x64), generate


def _dot_product():
    return DOT_PRODUCTS[kernel_path()]
