"""A kernel path (machine/cpu.py) -> the LLVM IR of its dot product; all give the same integers.

    total        i32 [16]
    weights      u8  [16, 4]
    activations  i8  [16, 4]

The result is total[lane] + the sum of the lane's 4 products, exact in i32.
"""

from collections.abc import Callable

from llvmlite import ir

from codegen_cli.kernels.vector_ir import (
    I16,
    I32,
    call_intrinsic,
    constant,
    halves_of,
    i32x16,
    lane_indices,
    pick_lanes,
)
from quantize.description.formats import LANES

Dot = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
PairwiseDot = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


def _dot_avx512vnni(
    builder: ir.IRBuilder, total: ir.Value, weights: ir.Value, activations: ir.Value
) -> ir.Value:
    name = "llvm.x86.avx512.vpdpbusd.512"
    return call_intrinsic(builder, name, i32x16.llvm, total, weights, activations)


def _dot_avxvnni(
    builder: ir.IRBuilder, total: ir.Value, weights: ir.Value, activations: ir.Value
) -> ir.Value:
    halves = zip(
        *(halves_of(builder, vector) for vector in (total, weights, activations)), strict=True
    )
    name, half_type = "llvm.x86.avx512.vpdpbusd.256", ir.VectorType(I32, LANES // 2)
    low, high = (call_intrinsic(builder, name, half_type, *half) for half in halves)
    return builder.shuffle_vector(low, high, lane_indices(range(LANES)))


def _dot_by_pairs(pairwise_dot: PairwiseDot) -> Dot:
    """Bytes 0 and 2 of each lane, then 1 and 3, widened to 16 bits and multiplied as those."""

    def dot(
        builder: ir.IRBuilder, total: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
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


def _pairwise_avx2(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    name, half_type = "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, LANES // 2)
    halves = zip(halves_of(builder, a), halves_of(builder, b), strict=True)
    low, high = (call_intrinsic(builder, name, half_type, *half) for half in halves)
    return builder.shuffle_vector(low, high, lane_indices(range(LANES)))


def _pairwise_generic(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Products of int16 lanes 2i and 2i+1, added, as int32."""
    wide = ir.VectorType(I32, 2 * LANES)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    return builder.add(
        pick_lanes(builder, products, range(0, 2 * LANES, 2)),
        pick_lanes(builder, products, range(1, 2 * LANES, 2)),
    )


DOT_PRODUCTS: dict[str, Dot] = {
    "avx512vnni": _dot_avx512vnni,
    "avxvnni": _dot_avxvnni,
    "avx2": _dot_by_pairs(_pairwise_avx2),
    "generic": _dot_by_pairs(_pairwise_generic),
}
