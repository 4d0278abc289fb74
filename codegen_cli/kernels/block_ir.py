"""A block's group of columns -> the LLVM IR that adds its products to the block's sums.

Where a register of sums has fewer than 16 rows, a group is added in turns.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from llvmlite import ir

from codegen_cli.kernels.dot_ir import DOTS, Dot
from codegen_cli.kernels.group_ir import row_factors, words_of_line
from codegen_cli.kernels.vector_ir import (
    F32,
    I8,
    I16,
    I32,
    ArrayArgument,
    broadcast,
    call_intrinsic,
    in_order,
    joined,
    pick_lanes,
)
from codegen_cli.machine.cpu import kernel_path
from quantize.description.formats import (
    BAND,
    GROUP,
    LINE_BYTES,
    MATRIX_FORMATS,
    WORD,
    MatrixFormat,
)


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


def add_group(
    builder: ir.IRBuilder, format: MatrixFormat, group: Group, sums: Sequence[ir.Value]
) -> list[ir.Value]:
    """Return sums + the products of a group, f32 [16] for each token and band."""
    dot = DOTS[kernel_path()][format]
    turns = []
    for row in range(0, BAND, dot.n_rows):
        totals = _dot_products(builder, format, dot, group, row)
        rows = range(row, row + dot.n_rows)
        parts = [pick_lanes(builder, each, rows) for each in sums]
        turns.append(_add_scaled(builder, format, dot, group, row, totals, parts))
    return [joined(builder, parts) for parts in zip(*turns, strict=True)]


def _dot_products(
    builder: ir.IRBuilder, format: MatrixFormat, dot: Dot, group: Group, row: int
) -> list[ir.Value]:
    """Return i32 [dot.n_rows] for each token and band: codes times activations, from a row on."""
    bytes_type = ir.VectorType(I8, WORD * dot.n_rows)
    intp = group.tokens[0].type
    x_starts = [builder.mul(token, intp(GROUP)) for token in group.tokens]
    totals = [dot.begin] * (len(group.tokens) * len(group.first_codes))
    for line in range(MATRIX_FORMATS[format].group_bytes // LINE_BYTES):
        place = intp(line * LINE_BYTES + row * WORD)
        packed = [
            group.codes.load(builder.add(first, place), bytes_type) for first in group.first_codes
        ]
        for word, unpack in words_of_line(format, line):
            weights = [unpack(builder, each) for each in packed]
            xs = (
                group.x_codes.load(builder.add(start, intp(word * WORD)), I32) for start in x_starts
            )
            everywhere = (
                builder.bitcast(broadcast(builder, x, dot.n_rows), bytes_type) for x in xs
            )
            pairs = zip(totals, product(everywhere, weights), strict=True)
            totals = [dot.add(builder, total, w, x) for total, (x, w) in pairs]
            if dot.register and len(group.tokens) > 1:
                totals = in_order(builder, dot.register, totals)
    return [dot.end(builder, total) for total in totals]


def _add_scaled(
    builder: ir.IRBuilder,
    format: MatrixFormat,
    dot: Dot,
    group: Group,
    row: int,
    totals: Sequence[ir.Value],
    sums: Sequence[ir.Value],
) -> list[ir.Value]:
    """Return sums + (totals - zeros * x_sum) * scales * x_scale; the difference is exact."""
    floats, halves = ir.VectorType(F32, dot.n_rows), ir.VectorType(I16, dot.n_rows)
    fma = f"llvm.fma.v{dot.n_rows}f32"
    bands = []
    for first in group.first_scales:
        bits = group.scales.load(builder.add(first, first.type(row)), halves)
        bands.append(row_factors(builder, format, bits, dot.int8_zero))
    results = []
    for i, (token, band) in enumerate(product(group.tokens, bands)):
        x_scale = broadcast(builder, group.x_scales.load(token, F32), dot.n_rows)
        x_sum = broadcast(builder, group.x_sums.load(token, F32), dot.n_rows)
        total = builder.sitofp(totals[i], floats)
        if band.zeros is not None:
            minus = builder.fneg(band.zeros)
            total = call_intrinsic(builder, fma, floats, minus, x_sum, total)
        scale = builder.fmul(band.scales, x_scale)
        results.append(call_intrinsic(builder, fma, floats, total, scale, sums[i]))
    return results
