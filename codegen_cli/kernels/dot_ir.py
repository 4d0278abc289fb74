"""A kernel path (machine/cpu.py) -> the LLVM IR of its dot products; all give the same integers.

A dot product is that of a group: 32 weights of a row with the 32 activations of a token. Both come
in 8 words of 4 columns, and a register of sums takes a word of as many rows as it has lanes:

    weights      u8 [n_rows, 4]   codes; those of int8 have 128 added
    activations  i8 [n_rows, 4]   the same word for all rows

What an instruction cannot take as it is, such as a weight that is signed, is changed where it is
used: LLVM does that once for all tokens of a block. (Pairs of tokens are pair_ir's.)
"""

from typing import Protocol

from llvmlite import ir

from codegen_cli.kernels.vector_ir import I8, I16, I32, call_intrinsic, constant, pick_lanes
from quantize.description.formats import INT8_ZERO, MatrixFormat

_AVX2_BYTES, _AVX2_PAIRS = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
_AVX2_SUMS = ir.VectorType(I32, 8)


class Dot(Protocol):
    """How a path adds up the products of a group.

    n_rows     that a register of sums has
    int8_zero  what int8's codes are too large by in these products: 128, or 0
    begin      the sums before the first word
    register   what inline assembly calls such a register; "": there is no need to
    by_lane    whether the instruction takes a word of activations from a lane of a register
    """

    n_rows: int
    int8_zero: int
    begin: ir.Constant
    register: str
    by_lane: bool

    def add(
        self, builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
        """Return the sums with a word's products."""
        ...

    def end(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        """Return the sums of the group as i32 [n_rows]."""
        ...


class _Vnni:
    """Four products of bytes and their sum in one instruction, for 16 rows (AVX-512) or 8."""

    int8_zero, register, by_lane = INT8_ZERO, "v", False

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self.begin = constant(ir.VectorType(I32, n_rows), 0)
        self._name = f"llvm.x86.avx512.vpdpbusd.{32 * n_rows}"

    def add(
        self, builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
        return call_intrinsic(builder, self._name, sums.type, sums, weights, activations)

    def end(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        return sums


class _Avx2Int8:
    """Magnitudes of the weights times activations that have taken over the weights' signs.

    Two such products are at most 2 * 128 * 127, which 16 bits just hold.
    """

    n_rows, int8_zero, register, by_lane = 8, 0, "v", False
    begin = constant(_AVX2_SUMS, 0)

    def add(
        self, builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
        signed = builder.xor(weights, constant(_AVX2_BYTES, INT8_ZERO))
        keeps_lowest = ir.Constant(ir.IntType(1), 0)
        sizes = call_intrinsic(builder, "llvm.abs.v32i8", _AVX2_BYTES, signed, keeps_lowest)
        name = "llvm.x86.avx2.psign.b"
        activations = call_intrinsic(builder, name, _AVX2_BYTES, activations, signed)
        return builder.add(sums, _avx2_sum_pairs(builder, _avx2_dot(builder, sizes, activations)))

    def end(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        return sums


class _Avx2Int4:
    """All 8 words add up in 16 bits, as 8 * 2 * 15 * 127 fits."""

    n_rows, int8_zero, register, by_lane = 8, INT8_ZERO, "v", False
    begin = constant(_AVX2_PAIRS, 0)

    def add(
        self, builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
        return builder.add(sums, _avx2_dot(builder, weights, activations))

    def end(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        return _avx2_sum_pairs(builder, sums)


def _avx2_dot(builder: ir.IRBuilder, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Products of bytes 2i and 2i+1, added in 16 bits."""
    name = "llvm.x86.avx2.pmadd.ub.sw"
    return call_intrinsic(builder, name, _AVX2_PAIRS, unsigned, signed)


def _avx2_sum_pairs(builder: ir.IRBuilder, pairs: ir.Value) -> ir.Value:
    """16-bit numbers 2i and 2i+1, added in 32 bits."""
    name, ones = "llvm.x86.avx2.pmadd.wd", constant(_AVX2_PAIRS, 1)
    return call_intrinsic(builder, name, _AVX2_SUMS, pairs, ones)


class _Arm:
    """Four products of bytes and their sum in one instruction, for 4 rows.

    usdot takes weights without a sign. sdot takes signed ones: int4's codes are small enough, and
    int8's become what they stand for by a flip of their top bit.
    """

    n_rows, register, by_lane = 4, "w", True
    begin = constant(ir.VectorType(I32, 4), 0)

    def __init__(self, instruction: str, int8_zero: int, *, flips: bool = False) -> None:
        self.int8_zero = int8_zero
        self._name = f"llvm.aarch64.neon.{instruction}.v4i32.v16i8"
        self._flips = flips

    def add(
        self, builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
        if self._flips:
            weights = builder.xor(weights, constant(weights.type, INT8_ZERO))
        return call_intrinsic(builder, self._name, sums.type, sums, weights, activations)

    def end(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        return sums


class _Generic:
    """Bytes 0 and 2 of each word, then 1 and 3, widened to 16 bits and multiplied as those."""

    n_rows, int8_zero, register, by_lane = 4, INT8_ZERO, "", False
    begin = constant(ir.VectorType(I32, 4), 0)

    def add(
        self, builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, activations: ir.Value
    ) -> ir.Value:
        pairs = ir.VectorType(I16, 2 * self.n_rows)
        byte, low = constant(pairs, 8), constant(pairs, 255)
        w, x = builder.bitcast(weights, pairs), builder.bitcast(activations, pairs)
        x_even = builder.ashr(builder.shl(x, byte), byte)
        even = self._pairwise_dot(builder, builder.and_(w, low), x_even)
        odd = self._pairwise_dot(builder, builder.lshr(w, byte), builder.ashr(x, byte))
        return builder.add(sums, builder.add(even, odd))

    def _pairwise_dot(self, builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
        """Products of 16-bit numbers 2i and 2i+1, added in 32 bits."""
        wide = ir.VectorType(I32, 2 * self.n_rows)
        products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
        return builder.add(
            pick_lanes(builder, products, range(0, 2 * self.n_rows, 2)),
            pick_lanes(builder, products, range(1, 2 * self.n_rows, 2)),
        )

    def end(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        return sums


def _both(dot: Dot) -> dict[MatrixFormat, Dot]:
    return {"int8": dot, "int4": dot}


# kernel path -> format -> Dot
DOTS: dict[str, dict[MatrixFormat, Dot]] = {
    "avx512vnni": _both(_Vnni(16)),
    "avxvnni": _both(_Vnni(8)),
    "avx2": {"int8": _Avx2Int8(), "int4": _Avx2Int4()},
    "i8mm": _both(_Arm("usdot", INT8_ZERO)),
    "dotprod": {"int8": _Arm("sdot", 0, flips=True), "int4": _Arm("sdot", INT8_ZERO)},
    "generic": _both(_Generic()),
}
