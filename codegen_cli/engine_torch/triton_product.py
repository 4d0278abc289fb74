"""Activations times a packed matrix, by Triton kernels that read the codes as they are stored.

No weight is ever written to memory: codes go from memory to registers, where they become floats.
Importing this module imports Triton, and fails with ImportError where there is none.

    y[token, row]  =  sum over groups of  scale * (sum over the group of level * x)

Levels, x and both sums are float32, and a level (docs/format.md) is exact: what is lost is what
float32 loses in summing. A token's sums have one order, whichever tokens stand beside it, so its
bits are those of that token alone; no sum is made with atomics, so they are the same each time.
"""

import torch
import triton
import triton.language as tl

from quantize.description.formats import (
    BAND,
    GROUP,
    INT4_LOWEST_ZERO,
    INT4_ZERO_BITS,
    INT8_ZERO,
    MATRIX_FORMATS,
    WORD,
    MatrixFormat,
    bands_of,
    groups_of,
)

MOST_TOKENS = 16
"""The most tokens of one product; more are better served by a dequantized matrix."""

# Neither of these was tuned on a GPU.
_TOKENS_AT_ONCE = 8
"""Tokens of one program: the sums of 8 stay in registers. More are left to further programs, which
find the codes in the GPU's cache."""

_MANY_BANDS = 512
"""So many bands are programs enough to fill a GPU; of fewer bands, each has twice the warps."""

_LANES = 64 if torch.version.hip else 32
"""Of a warp."""

_UNIT = 150 << 23
"""The bits of the float 2**23."""

_ROWS = tl.constexpr(BAND)
_GROUP = tl.constexpr(GROUP)
_WORD = tl.constexpr(WORD)
_INT8_ZERO = tl.constexpr(INT8_ZERO)
_INT4_LOWEST_ZERO = tl.constexpr(INT4_LOWEST_ZERO)
_INT4_ZERO_MASK = tl.constexpr((1 << INT4_ZERO_BITS) - 1)
_F16_PARTS = tl.constexpr(4)


def triton_product(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor | None,
    format: MatrixFormat,
    n_out: int,
) -> torch.Tensor:
    """Return x times the transpose of a packed matrix [n_out, n_in], as f32 [n, n_out].

    x       [n, n_in]                      f16, bf16 or f32, n 1..16
    codes   [n_bands, n_groups * 8, 16, 4] u8   int8
            [n_bands, n_groups, 4, 16, 4]  u8   int4
            [n_bands, n_groups * 32, 16]   f16  f16
    scales  [n_bands, n_groups, 16]        f16  None for f16

    Columns of codes beyond n_in may hold anything. All are contiguous on one device.
    """
    n, n_in = x.shape
    if not 1 <= n <= MOST_TOKENS:
        raise ValueError(f"{n} tokens in one product, need 1 to {MOST_TOKENS}")
    n_groups = groups_of(n_in)
    y = torch.empty((n, n_out), dtype=torch.float32, device=x.device)
    x = x.contiguous()
    sizes = n, n_in, n_out, n_groups
    at_once = programs_read(format, n, n_out, n_in)
    grid = bands_of(n_out), triton.cdiv(n, at_once["TOKENS"])
    if scales is None:
        _product_f16[grid](y, x, codes, *sizes, **at_once)
    else:
        words, bits = codes.view(torch.int32), scales.view(torch.int16)
        _product_grouped[grid](y, x, words, bits, *sizes, _UNIT, **at_once)
    return y


def programs_read(
    format: MatrixFormat, n: int, n_out: int, n_in: int, lanes: int = _LANES
) -> dict[str, int]:
    """Return what a kernel's programs are compiled for, by the names of its arguments.

    GROUPS and num_warps, on which the order of a token's sums depends, do not depend on n. A lane
    takes 8 rows of a group: so many products for each of the x that it reads.
    """
    groups = 32 if bands_of(n_out) >= _MANY_BANDS else 64
    tokens = min(triton.next_power_of_2(n), _TOKENS_AT_ONCE)
    read = {"TOKENS": tokens, "GROUPS": groups}
    if format != "f16":
        read |= {"BITS": MATRIX_FORMATS[format].code_bits, "WHOLE": n_in % GROUP == 0}
    return read | {"num_warps": groups * 2 // lanes}


@triton.jit(
    do_not_specialize=["n", "n_in", "n_out", "n_groups", "unit"],
    do_not_specialize_on_alignment=["y", "x"],
)
def _product_grouped(
    y,
    x,
    words,
    scales,
    n,
    n_in,
    n_out,
    n_groups,
    unit,
    BITS: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUPS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Multiply by a band of int8 or int4; programs are [n_bands, tokens in parts of TOKENS].

    words   [n_bands, n_groups, BITS, 16]  i32  the BITS words of a group hold its codes
    scales  [n_bands, n_groups, 16]        i16  the bits of fp16
    unit    bits of the float 2**23, whose last bit counts 1. It is an argument as constants would
            be put into the instructions, of which two are then needed for `code` instead of one
    WHOLE   whether n_in is a multiple of 32

    A code becomes a float without a conversion: its field of a word, as it lies in the mantissa
    of 2**(23 - shift), adds its value to that number. The shifts leave room for the quarter
    steps of int4's zero points; for the fields that lie elsewhere the halves are swapped.
    """
    LOWEST: tl.constexpr = 4 if BITS == 4 else 0
    WORDS: tl.constexpr = BITS if TOKENS <= 2 else BITS // 4  # at a time: else registers run out
    band = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, _ROWS)[None, None, :]
    out = band * _ROWS + row
    token = tl.program_id(1) * TOKENS
    total = (tl.zeros((1, GROUPS, _ROWS), tl.float32),) * TOKENS
    for first in range(0, n_groups, GROUPS):
        group = first + tl.arange(0, GROUPS)[None, :, None]
        inside = group < n_groups
        block = band * n_groups + group
        bits = tl.load(scales + block * _ROWS + row, mask=inside, other=0)
        scale = bits.to(tl.float16, bitcast=True).to(tl.float32)
        if BITS == 4:  # in whole steps of 4 levels
            scale *= 4.0
            zero = ((bits & _INT4_ZERO_MASK) + _INT4_LOWEST_ZERO).to(tl.float32) * 0.25
        else:
            zero = tl.full((1, GROUPS, _ROWS), _INT8_ZERO, tl.float32)
        partial = (tl.zeros((1, GROUPS, _ROWS), tl.float32),) * TOKENS
        for begin in range(0, BITS, WORDS):
            for step in tl.static_range(WORDS):
                # Neighbouring groups begin elsewhere, so as to read x from other banks.
                place = (begin + step + group) % BITS
                word = tl.load(words + (block * BITS + place) * _ROWS + row, mask=inside, other=0)
                start = group * _GROUP + place * _WORD
                for half in tl.static_range(2):
                    for shift in tl.static_range(LOWEST, LOWEST + 16, BITS):
                        bit = (shift + 16 * half) % 32
                        beyond = bit // 8 + bit % 8 // 4 * 16
                        there = (group < n_groups) if WHOLE else (start + beyond < n_in)
                        code = word & (((1 << BITS) - 1) << shift) | (unit - (shift << 23))
                        level = code.to(tl.float32, bitcast=True) - (zero + (1 << (23 - shift)))
                        partial = _add(
                            partial, level, x, start, beyond, there, token, n, n_in, TOKENS
                        )
                    word = (word << 16) | ((word >> 16) & 0xFFFF)
        scaled = total[:0]
        for t in tl.static_range(TOKENS):
            scaled += (total[t] + partial[t] * scale,)
        total = scaled
    _store(y, total, out, token, n, n_out, TOKENS)


@triton.jit(
    do_not_specialize=["n", "n_in", "n_out", "n_groups"],
    do_not_specialize_on_alignment=["y", "x"],
)
def _product_f16(
    y,
    x,
    weights,
    n,
    n_in,
    n_out,
    n_groups,
    TOKENS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Multiply by a band of f16 weights [n_bands, n_groups * 32, 16]; programs as above."""
    COLUMNS: tl.constexpr = GROUPS
    band = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, _ROWS)[None, None, :]
    out = band * _ROWS + row
    token = tl.program_id(1) * TOKENS
    total = (tl.zeros((1, COLUMNS, _ROWS), tl.float32),) * TOKENS
    for first in range(0, n_in, COLUMNS * _F16_PARTS):
        for part in tl.static_range(_F16_PARTS):  # so that their reads are under way together
            column = first + part * COLUMNS + tl.arange(0, COLUMNS)[None, :, None]
            there = column < n_in
            block = band * n_groups * _GROUP + column
            weight = tl.load(weights + block * _ROWS + row, mask=there, other=0).to(tl.float32)
            total = _add(total, weight, x, column, 0, there, token, n, n_in, TOKENS)
    _store(y, total, out, token, n, n_out, TOKENS)


@triton.jit
def _add(sums, weights, x, start, beyond, there, token, n, n_in, TOKENS: tl.constexpr):
    """Return each token's sums with the products of weights and x in columns start + beyond.

    Addresses are of start; beyond, a constant, is in the instruction that reads.
    """
    more = sums[:0]
    for t in tl.static_range(TOKENS):
        values = tl.load(
            x + (token + t) * n_in + start + beyond, mask=there & (token + t < n), other=0
        )
        more += (sums[t] + values.to(tl.float32) * weights,)
    return more


@triton.jit
def _store(y, sums, out, token, n, n_out, TOKENS: tl.constexpr):
    """Write the sums [1, columns, 16] of each token, added up over columns, to rows out."""
    for t in tl.static_range(TOKENS):
        there = (out < n_out) & (token + t < n)
        tl.store(y + (token + t) * n_out + out, tl.sum(sums[t], axis=1, keep_dims=True), mask=there)
