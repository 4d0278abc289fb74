"""A group of a band as it is stored -> the LLVM IR of its weights, scales and zero points.

    W = (codes - zeros) * scales    zeros and scales for each row, f32

What a kernel sees of a format: how its bytes become words, and which numbers stand for its codes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from llvmlite import ir

from codegen_cli.kernels.fp16 import fp16_bits_to_f32
from codegen_cli.kernels.vector_ir import F32, I32, ArrayArgument, constant
from quantize.description.formats import (
    GROUP,
    INT4_LOWEST_ZERO,
    INT4_ZERO_BITS,
    WORD,
    MatrixFormat,
)

Unpack = Callable[[ir.IRBuilder, ir.Value], ir.Value]
"""Packed bytes -> a word of 4 codes, u8, for each row."""


class Group(NamedTuple):
    """A group of columns in a block's bands, and the activations of its tokens.

    first_codes   of each band, the group's first byte in codes
    first_scales  of each band, the group's first number in scales
    tokens        numbers of the tokens
    """

    codes: ArrayArgument
    scales: ArrayArgument
    x_codes: ArrayArgument
    x_scales: ArrayArgument
    x_sums: ArrayArgument
    first_codes: Sequence[ir.Value]
    first_scales: Sequence[ir.Value]
    tokens: Sequence[ir.Value]


class RowFactors(NamedTuple):
    """Of a group in some rows, f32 [n_rows]; zeros is None where all are 0."""

    scales: ir.Value
    zeros: ir.Value | None


def words_of_line(format: MatrixFormat, line: int) -> Iterator[tuple[int, Unpack]]:
    """Yield which words of a group a cache line of its codes holds, and how each is unpacked.

    int8    a byte a code: line i is word i
    int4    the low nibbles of line i are word i, the high ones word i + 4
    """
    if format == "int8":
        yield line, lambda builder, packed: packed
    else:
        yield line, _low_nibbles
        yield line + GROUP // WORD // 2, _high_nibbles


def row_factors(
    builder: ir.IRBuilder, format: MatrixFormat, bits: ir.Value, int8_zero: int
) -> RowFactors:
    """Return what the fp16 bits of a group's scales, i16 [n_rows], tell of its rows.

    int4's zero points are 14 to 45 quarters of a step, by the lowest 5 bits of the scale. A step
    is 4 of the scale's units: codes, zero points and scales are exact in whole steps, too.
    """
    n_rows = bits.type.count
    floats, integers = ir.VectorType(F32, n_rows), ir.VectorType(I32, n_rows)
    scales = fp16_bits_to_f32(builder, bits)
    if format == "int8":
        return RowFactors(scales, constant(floats, int8_zero) if int8_zero else None)
    low = builder.and_(bits, constant(bits.type, (1 << INT4_ZERO_BITS) - 1))
    quarters = builder.zext(builder.add(low, constant(bits.type, INT4_LOWEST_ZERO)), integers)
    zeros = builder.fmul(builder.sitofp(quarters, floats), constant(floats, 1 / 4))
    return RowFactors(builder.fmul(scales, constant(floats, 4)), zeros)


def _low_nibbles(builder: ir.IRBuilder, packed: ir.Value) -> ir.Value:
    return builder.and_(packed, constant(packed.type, 15))


def _high_nibbles(builder: ir.IRBuilder, packed: ir.Value) -> ir.Value:
    """Shifted as words: no CPU shifts bytes."""
    words = ir.VectorType(I32, packed.type.count // WORD)
    shifted = builder.lshr(builder.bitcast(packed, words), constant(words, 4))
    return _low_nibbles(builder, builder.bitcast(shifted, packed.type))
