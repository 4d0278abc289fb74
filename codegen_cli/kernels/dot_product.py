"""Packed bytes of weights and activations -> exact int32 sums, by the best instruction there is.

A kernel path (machine/cpu.py) is one way to compute `dot_4_bytes`; all give the same integers.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from codegen_cli.kernels.vectors import (
    I16,
    I32,
    Vector,
    broadcast,
    call_intrinsic,
    constant,
    halves_of,
    i32x16,
    lane_indices,
    load_unaligned,
    pick_lanes,
)
from codegen_cli.machine.cpu import kernel_path
from quantize.description.formats import INT4_LOWEST_ZERO, INT4_ZERO_BITS, LANES, WORD

i8x64 = Vector("i8", WORD * LANES)  # a word for each lane


@intrinsic
def load_bytes(typing_context, array, offset):
    """64 bytes as they are."""

    def generate(context, builder, signature, arguments):
        return load_unaligned(context, builder, signature.args[0], *arguments, i8x64.llvm)

    return i8x64(array, types.intp), generate


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
    """total[lane] += sum over 4 bytes of unsigned weights x signed activations: exact in int32."""

    def generate(context, builder, signature, arguments):
        return _DOT_PRODUCTS[kernel_path()](builder, *arguments)

    return i32x16(i32x16, i8x64, i8x64), generate


def _dot_avx512vnni(builder, total, weights, activations):
    name = "llvm.x86.avx512.vpdpbusd.512"
    return call_intrinsic(builder, name, i32x16.llvm, total, weights, activations)


def _dot_avxvnni(builder, total, weights, activations):
    halves = zip(
        *(halves_of(builder, vector) for vector in (total, weights, activations)), strict=True
    )
    name, half_type = "llvm.x86.avx512.vpdpbusd.256", ir.VectorType(I32, LANES // 2)
    low, high = (call_intrinsic(builder, name, half_type, *half) for half in halves)
    return builder.shuffle_vector(low, high, lane_indices(range(LANES)))


def _dot_by_pairs(pairwise_dot):
    """Bytes 0 and 2 of each lane, then 1 and 3, widened to 16 bits and multiplied as those."""

    def dot(builder, total, weights, activations):
        pairs, byte = ir.VectorType(I16, 2 * LANES), constant(ir.VectorType(I16, 2 * LANES), 8)
        weights, activations = builder.bitcast(weights, pairs), builder.bitcast(activations, pairs)
        even = pairwise_dot(
            builder,
            builder.and_(weights, constant(pairs, 255)),
            builder.ashr(builder.shl(activations, byte), byte),
        )
        odd = pairwise_dot(builder, builder.lshr(weights, byte), builder.ashr(activations, byte))
        return builder.add(total, builder.add(even, odd))

    return dot


def _pairwise_avx2(builder, a, b):
    name, half_type = "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, LANES // 2)
    halves = zip(halves_of(builder, a), halves_of(builder, b), strict=True)
    low, high = (call_intrinsic(builder, name, half_type, *half) for half in halves)
    return builder.shuffle_vector(low, high, lane_indices(range(LANES)))


def _pairwise_generic(builder, a, b):
    """Products of int16 lanes 2i and 2i+1, added, as int32."""
    wide = ir.VectorType(I32, 2 * LANES)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    return builder.add(
        pick_lanes(builder, products, range(0, 2 * LANES, 2)),
        pick_lanes(builder, products, range(1, 2 * LANES, 2)),
    )


_DOT_PRODUCTS = {
    "avx512vnni": _dot_avx512vnni,
    "avxvnni": _dot_avxvnni,
    "avx2": _dot_by_pairs(_pairwise_avx2),
    "generic": _dot_by_pairs(_pairwise_generic),
}
