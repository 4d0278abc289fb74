"""A block's group of columns -> the LLVM IR that adds its products to the block's sums.

Where a register of sums has fewer than 16 rows, a group is added in turns.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from llvmlite import ir

from codegen_cli.kernels.dot_ir import DOTS, Dot
from codegen_cli.kernels.group_ir import Group, row_factors, words_of_line
from codegen_cli.kernels.pair_ir import paired_dot_products, paired_tokens, takes_pairs
from codegen_cli.kernels.vector_ir import (
    F32,
    I8,
    I16,
    I32,
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

WordsOf = Callable[[int], list[ir.Value]]
"""A word of a group -> its activations, of each token, i8 [n_rows, 4]."""


def add_group(
    builder: ir.IRBuilder, format: MatrixFormat, group: Group, sums: Sequence[ir.Value]
) -> list[ir.Value]:
    """Return sums + the products of a group, f32 [16] for each token and band."""
    dot = DOTS[kernel_path()][format]
    totals_from = _dot_products(builder, format, dot, group)
    turns = []
    for row in range(0, BAND, dot.n_rows):
        rows = range(row, row + dot.n_rows)
        parts = [pick_lanes(builder, each, rows) for each in sums]
        parts = _add_scaled(builder, format, dot, group, row, totals_from(row), parts)
        if dot.n_rows == 4:  # LLVM would begin some of so many turns before others have ended
            parts = _in_order(builder, dot, group, parts)
        turns.append(parts)
    return [joined(builder, parts) for parts in zip(*turns, strict=True)]


def _dot_products(
    builder: ir.IRBuilder, format: MatrixFormat, dot: Dot, group: Group
) -> Callable[[int], list[ir.Value]]:
    """Return what gives, from a row on, i32 [dot.n_rows] for each token and band."""
    if takes_pairs(len(group.tokens)):
        xs = paired_tokens(builder, group)
        return partial(paired_dot_products, builder, format, group, xs)
    words_of = _words_of_tokens(builder, dot, group)
    return partial(_word_dot_products, builder, format, dot, group, words_of)


def _words_of_tokens(builder: ir.IRBuilder, dot: Dot, group: Group) -> WordsOf:
    """Return what gives the activations of a word, or takes them out of registers."""
    intp, n_rows = group.tokens[0].type, dot.n_rows
    starts = [builder.mul(token, intp(GROUP)) for token in group.tokens]
    words = ir.VectorType(I32, GROUP // WORD)
    loaded = [group.x_codes.load(start, words) for start in starts] if dot.by_lane else []

    def everywhere(word: int) -> list[ir.Value]:
        if dot.by_lane:
            xs = [pick_lanes(builder, each, [word] * n_rows) for each in loaded]
        else:
            places = [builder.add(start, intp(word * WORD)) for start in starts]
            xs = [broadcast(builder, group.x_codes.load(at, I32), n_rows) for at in places]
        return [builder.bitcast(x, ir.VectorType(I8, WORD * n_rows)) for x in xs]

    return everywhere


def _word_dot_products(
    builder: ir.IRBuilder,
    format: MatrixFormat,
    dot: Dot,
    group: Group,
    words_of: WordsOf,
    row: int,
) -> list[ir.Value]:
    """Return i32 [dot.n_rows] for each token and band: codes times activations, from a row on."""
    bytes_type = ir.VectorType(I8, WORD * dot.n_rows)
    totals = [dot.begin] * (len(group.tokens) * len(group.first_codes))
    for line in range(MATRIX_FORMATS[format].group_bytes // LINE_BYTES):
        place = group.tokens[0].type(line * LINE_BYTES + row * WORD)
        packed = [
            group.codes.load(builder.add(first, place), bytes_type) for first in group.first_codes
        ]
        for word, unpack in words_of_line(format, line):
            weights = [unpack(builder, each) for each in packed]
            pairs = zip(totals, product(words_of(word), weights), strict=True)
            totals = [dot.add(builder, total, w, x) for total, (x, w) in pairs]
            totals = _in_order(builder, dot, group, totals)
    return [dot.end(builder, total) for total in totals]


def _in_order(
    builder: ir.IRBuilder, dot: Dot, group: Group, values: list[ir.Value]
) -> list[ir.Value]:
    """Have LLVM compute these before what comes next, unless there is no need to."""
    is_needed = dot.register and len(group.tokens) > 1
    return in_order(builder, dot.register, values) if is_needed else values


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
