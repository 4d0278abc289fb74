"""A kernel path (machine/cpu.py) -> the LLVM IR of its dot product; all give the same integers.

    total        i32 [16]
    weights      u8  [16, 4]  below 128 where the instruction takes them for i8
    activations  i8  [16, 4]

The result is total[lane] + the sum of the lane's 4 products, exact in i32.
"""

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir

from codegen_cli.kernels.vector_ir import (
    I16,
    I32,
    call_intrinsic,
    constant,
    join_parts,
    parts_of,
    pick_lanes,
)
from quantize.description.formats import LANES

Dot = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
PairwiseDot = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


class DotProduct(NamedTuple):
    """How a path computes dot products.

    build         writes the IR: (builder, total, weights, activations) -> the result
    takes_signed  whether its instruction takes weights for i8: they must be below 128
    """

    build: Dot
    takes_signed: bool = False


def _call_on_parts(builder: ir.IRBuilder, name: str, n_parts: int, *vectors: ir.Value) -> ir.Value:
    """What an intrinsic function makes of each part of the vectors; i32 [16], all together."""
    part_type = ir.VectorType(I32, LANES // n_parts)
    parts = zip(*(parts_of(builder, vector, n_parts) for vector in vectors), strict=True)
    results = [call_intrinsic(builder, name, part_type, *part) for part in parts]
    return join_parts(builder, results)


def _dot_by_instruction(name: str, n_parts: int) -> Dot:
    """By the intrinsic function of an instruction that does just this, for 16 / n_parts lanes."""

    def dot(
        builder: ir.IRBuilder, total: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
        return _call_on_parts(builder, name, n_parts, total, weights, activations)

    return dot


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
    return _call_on_parts(builder, "llvm.x86.avx2.pmadd.wd", 2, a, b)


def _pairwise_generic(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Products of int16 lanes 2i and 2i+1, added, as int32."""
    wide = ir.VectorType(I32, 2 * LANES)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    return builder.add(
        pick_lanes(builder, products, range(0, 2 * LANES, 2)),
        pick_lanes(builder, products, range(1, 2 * LANES, 2)),
    )


DOT_PRODUCTS: dict[str, DotProduct] = {
    "avx512vnni": DotProduct(_dot_by_instruction("llvm.x86.avx512.vpdpbusd.512", 1)),
    "avxvnni": DotProduct(_dot_by_instruction("llvm.x86.avx512.vpdpbusd.256", 2)),
    "avx2": DotProduct(_dot_by_pairs(_pairwise_avx2)),
    "i8mm": DotProduct(_dot_by_instruction("llvm.aarch64.neon.usdot.v4i32.v16i8", 4)),
    "dotprod": DotProduct(
        _dot_by_instruction("llvm.aarch64.neon.sdot.v4i32.v16i8", 4), takes_signed=True
    ),
    "generic": DotProduct(_dot_by_pairs(_pairwise_generic)),
}
