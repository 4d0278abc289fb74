"""A group of columns, tokens in pairs -> the LLVM IR of their dot products by arm64's `usmmla`.

It multiplies 8 columns of two rows by those of two tokens, twice as many products as `usdot`:

    weights      u8  [2 rows, 8]         two words of each row
    activations  i8  [2 tokens, 8]
    sums         i32 [2 rows, 2 tokens]
"""

from collections.abc import Sequence
from itertools import product

from llvmlite import ir

from codegen_cli.kernels.group_ir import Group, words_of_line
from codegen_cli.kernels.vector_ir import (
    I8,
    I32,
    I64,
    call_intrinsic,
    constant,
    in_order,
    interleaved,
    joined,
    parts_of,
    pick_lanes,
)
from codegen_cli.machine.cpu import kernel_path
from quantize.description.formats import GROUP, LINE_BYTES, MATRIX_FORMATS, WORD, MatrixFormat

_USMMLA = "llvm.aarch64.neon.usmmla.v4i32.v16i8"
_BYTES, _WORDS = ir.VectorType(I8, 16), ir.VectorType(I32, 4)

PairedTokens = Sequence[Sequence[ir.Value]]
"""A group's activations, i8 [2 tokens, 8]: of each 8 columns those of every pair of tokens."""


def takes_pairs(n_tokens: int) -> bool:
    """Tell whether a block of so many tokens is multiplied in pairs.

    Of 2 tokens alone it is not: to pair the rows costs as many instructions as it saves.
    """
    return kernel_path() == "i8mm" and n_tokens > 2 and n_tokens % 2 == 0


def paired_tokens(builder: ir.IRBuilder, group: Group) -> PairedTokens:
    """Return the activations of a block: paired once, they serve all rows."""
    n_eights, intp = GROUP // 8, group.tokens[0].type
    eights = ir.VectorType(I64, n_eights)
    xs = [group.x_codes.load(builder.mul(t, intp(GROUP)), eights) for t in group.tokens]
    pairs = [interleaved(builder, a, b) for a, b in zip(xs[::2], xs[1::2], strict=True)]
    operands = [_as_bytes(builder, parts_of(builder, pair, n_eights)) for pair in pairs]
    return list(zip(*operands, strict=True))


def paired_dot_products(
    builder: ir.IRBuilder, format: MatrixFormat, group: Group, xs: PairedTokens, row: int
) -> list[ir.Value]:
    """Return i32 [4] for each token and band: codes times activations, from a row on."""
    n_pairs, n_bands = len(group.tokens) // 2, len(group.first_codes)
    totals = [constant(_WORDS, 0)] * (n_pairs * n_bands * 2)
    for line in range(0, MATRIX_FORMATS[format].group_bytes // LINE_BYTES, 2):
        packed = [
            rows
            for first in group.first_codes
            for rows in _paired_rows(builder, group, first, line, row)
        ]
        for word, unpack in words_of_line(format, line):
            weights = [unpack(builder, rows) for rows in packed]
            operands = zip(totals, product(xs[word * WORD // 8], weights), strict=True)
            totals = [
                call_intrinsic(builder, _USMMLA, _WORDS, total, w, x) for total, (x, w) in operands
            ]
            totals = in_order(builder, "w", totals)
    four_rows = [joined(builder, both) for both in zip(totals[::2], totals[1::2], strict=True)]
    return [
        pick_lanes(builder, four_rows[pair * n_bands + band], range(token, 8, 2))
        for pair, token, band in product(range(n_pairs), range(2), range(n_bands))
    ]


def _paired_rows(
    builder: ir.IRBuilder, group: Group, first: ir.Value, line: int, row: int
) -> list[ir.Value]:
    """Return two lines of a band, u8 [2 rows, 8], for rows 0 and 1, then 2 and 3 from `row` on."""
    places = (first.type(each * LINE_BYTES + row * WORD) for each in (line, line + 1))
    words = (group.codes.load(builder.add(first, place), _WORDS) for place in places)
    return _as_bytes(builder, parts_of(builder, interleaved(builder, *words), 2))


def _as_bytes(builder: ir.IRBuilder, operands: Sequence[ir.Value]) -> list[ir.Value]:
    return [builder.bitcast(each, _BYTES) for each in operands]
