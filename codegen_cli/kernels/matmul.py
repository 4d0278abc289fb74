"""Matrix products: packed bands of 16 rows times the activations of one or more tokens.

A band's weights are loaded once and used for every token of the call, and each (row, token) adds
its groups of 32 columns in the same order whatever else is computed beside it. So a logit does not
depend on how ids are batched, and not on which thread computes which band.
"""

from collections import namedtuple

from numba import carray, float32, int32, njit, uint8, uint16

from codegen_cli.kernels.dot_product import (
    dot_4_bytes,
    four_times_high_nibbles,
    four_times_low_nibbles,
    int8_zeros,
    load_4_bytes_everywhere,
    load_bytes,
    load_int4_zeros,
    load_int8_codes,
)
from codegen_cli.kernels.threading_primitives import pointer_to
from codegen_cli.kernels.vectors import (
    every_lane,
    fma,
    load_f16,
    load_f32,
    prefetch_once,
    store_f32,
    to_f32,
)
from quantize.description.formats import BAND, GROUP, LINE_BYTES, MATRIX_FORMATS, WORD

_INT8, _INT4 = MATRIX_FORMATS["int8"], MATRIX_FORMATS["int4"]
_INT8_NUMBER, _INT8_GROUP_BYTES = _INT8.number, _INT8.group_bytes
_INT4_NUMBER, _INT4_GROUP_BYTES = _INT4.number, _INT4.group_bytes

# How far ahead codes are asked for. The CPU foresees reads only within a page of 4 KB, and at each
# new one waits for memory and for its address.
_BYTES_AHEAD = 4096

_compile = njit(nogil=True, error_model="numpy")
# Inlined by numba, as LLVM might not: a call would pass ten registers by memory.
_inline = njit(nogil=True, error_model="numpy", inline="always")

# 32 columns of a band: W = (codes - zeros) * scales.
#   codes   8 vectors of 16 rows x 4 columns, as bytes
#   zeros   i32 [16 rows]
#   scales  f32 [16 rows]
_Group = namedtuple("_Group", "codes zeros scales")


@_inline
def _prefetch_group(codes, at, n_bytes, scales, scales_at):
    """Ask for the codes of a later group, n_bytes each, and for its scales.

    codes, scales  as in the loads below, of which the present group begins at `at` and scales_at
    """
    for line in range(0, n_bytes, LINE_BYTES):
        prefetch_once(codes, at + _BYTES_AHEAD + line)
    prefetch_once(scales, scales_at + _BYTES_AHEAD // n_bytes * BAND)


@_inline
def _load_int8_group(codes, scales, index):
    """The group of a number, counted over all bands of an int8 matrix.

    codes   [n_bands * n_groups * 512]  u8   bands [n_groups][8][16 rows][4 columns], code + 128
    scales  [n_bands * n_groups * 16]   u16  fp16 bits, [n_groups][16 rows]
    """
    at, scales_at = index * _INT8_GROUP_BYTES, index * BAND
    _prefetch_group(codes, at, _INT8_GROUP_BYTES, scales, scales_at)
    vectors = (
        load_int8_codes(codes, at),
        load_int8_codes(codes, at + LINE_BYTES),
        load_int8_codes(codes, at + 2 * LINE_BYTES),
        load_int8_codes(codes, at + 3 * LINE_BYTES),
        load_int8_codes(codes, at + 4 * LINE_BYTES),
        load_int8_codes(codes, at + 5 * LINE_BYTES),
        load_int8_codes(codes, at + 6 * LINE_BYTES),
        load_int8_codes(codes, at + 7 * LINE_BYTES),
    )
    return _Group(vectors, int8_zeros(), load_f16(scales, scales_at))


@_inline
def _load_int4_group(codes, scales, index):
    """The group of a number, counted over all bands of an int4 matrix, its codes times 4.

    codes   [n_bands * n_groups * 256]  u8   bands [n_groups][4][16 rows][4 columns]: the low
                                             nibbles hold a group's columns 0-15, the high
                                             nibbles columns 16-31
    scales  [n_bands * n_groups * 16]   u16  fp16 bits, [n_groups][16 rows]; zeros = 14 + the
                                             lowest 5 bits
    """
    at, scales_at = index * _INT4_GROUP_BYTES, index * BAND
    _prefetch_group(codes, at, _INT4_GROUP_BYTES, scales, scales_at)
    p0, p1 = load_bytes(codes, at), load_bytes(codes, at + LINE_BYTES)
    p2, p3 = load_bytes(codes, at + 2 * LINE_BYTES), load_bytes(codes, at + 3 * LINE_BYTES)
    vectors = (
        four_times_low_nibbles(p0),
        four_times_low_nibbles(p1),
        four_times_low_nibbles(p2),
        four_times_low_nibbles(p3),
        four_times_high_nibbles(p0),
        four_times_high_nibbles(p1),
        four_times_high_nibbles(p2),
        four_times_high_nibbles(p3),
    )
    return _Group(vectors, load_int4_zeros(scales, scales_at), load_f16(scales, scales_at))


@_inline
def _add_group(sums, group, x_codes, x_scale, x_sum, at):
    """sums + the product of a group and the 32 activations at x_codes[at:].

    sums     [16 lanes]    f32
    group                  _Group
    x_codes  [>= at + 32]  i8
    x_scale                f32  of the 32 activations
    x_sum                  i32  the sum of their codes

    Subtracting zeros from every code is the same as starting the exact integer sum of a group at
    -zeros * x_sum; it stays below 2**21.
    """
    codes = group.codes
    total = group.zeros * every_lane(int32(-x_sum))
    total = dot_4_bytes(total, codes[0], load_4_bytes_everywhere(x_codes, at))
    total = dot_4_bytes(total, codes[1], load_4_bytes_everywhere(x_codes, at + WORD))
    total = dot_4_bytes(total, codes[2], load_4_bytes_everywhere(x_codes, at + 2 * WORD))
    total = dot_4_bytes(total, codes[3], load_4_bytes_everywhere(x_codes, at + 3 * WORD))
    total = dot_4_bytes(total, codes[4], load_4_bytes_everywhere(x_codes, at + 4 * WORD))
    total = dot_4_bytes(total, codes[5], load_4_bytes_everywhere(x_codes, at + 5 * WORD))
    total = dot_4_bytes(total, codes[6], load_4_bytes_everywhere(x_codes, at + 6 * WORD))
    total = dot_4_bytes(total, codes[7], load_4_bytes_everywhere(x_codes, at + 7 * WORD))
    return fma(to_f32(total), group.scales * every_lane(x_scale), sums)


@_inline
def _first_sums(out, token, row, accumulate):
    """What a band's sums begin with: out[token, row : row + 16] or zeros."""
    return load_f32(out[token], row) if accumulate else every_lane(float32(0))


def _matmul_quantized(load_group):
    """The product for a format, of which load_group loads a group of a band."""

    @_compile
    def product(out, band, codes, scales, x_codes, x_scales, x_sums, tile, accumulate):
        """A band's rows of W @ x for every token.

        out       [n_tokens, n_out]            f32  overwritten, or added to when `accumulate`
        codes, scales                               W, as in load_group
        x_codes   [n_groups, n_tokens * 32]    i8   activations, 32 columns a group
        x_scales  [n_groups, n_tokens]         f32
        x_sums    [n_groups, n_tokens]         i32  sum of a group's x_codes
        tile      [n_tokens * 16]              f32  scratch
        """
        n_tokens, n_groups = out.shape[0], x_codes.shape[0]
        row, first = band * BAND, band * n_groups
        if n_tokens == 1:  # its sums need no tile: they stay in a register
            sums = _first_sums(out, 0, row, accumulate)
            for i in range(n_groups):
                group = load_group(codes, scales, first + i)
                sums = _add_group(sums, group, x_codes[i], x_scales[i, 0], x_sums[i, 0], 0)
            store_f32(out[0], row, sums)
            return
        for token in range(n_tokens):
            store_f32(tile, token * BAND, _first_sums(out, token, row, accumulate))
        for i in range(n_groups):
            group = load_group(codes, scales, first + i)
            x, x_scale, x_sum = x_codes[i], x_scales[i], x_sums[i]
            for token in range(n_tokens):
                sums = load_f32(tile, token * BAND)
                sums = _add_group(sums, group, x, x_scale[token], x_sum[token], token * GROUP)
                store_f32(tile, token * BAND, sums)
        for token in range(n_tokens):
            store_f32(out[token], row, load_f32(tile, token * BAND))

    return product


matmul_int8 = _matmul_quantized(_load_int8_group)
matmul_int4 = _matmul_quantized(_load_int4_group)


@_compile
def matmul_f16(out, band, weights, x, tile, accumulate):
    """A band's rows of W @ x for every token, in float32.

    out      [n_tokens, n_out]           f32  overwritten, or added to when `accumulate`
    weights  [n_bands * n_in * 16]       u16  fp16 bits, bands [n_in][16 rows]
    x        [n_tokens, n_in]            f32
    tile     [n_tokens * 16]             f32  scratch
    """
    n_tokens, n_in = x.shape
    for token in range(n_tokens):
        store_f32(tile, token * BAND, _first_sums(out, token, band * BAND, accumulate))
    # A group of columns at a time, so that its weights stay in the first-level cache.
    for start in range(0, n_in, GROUP):
        at = (band * n_in + start) * BAND
        for token in range(n_tokens):
            row = x[token]
            total = load_f32(tile, token * BAND)
            for column in range(GROUP):
                weight = load_f16(weights, at + column * BAND)
                total = fma(weight, every_lane(row[start + column]), total)
            store_f32(tile, token * BAND, total)
    for token in range(n_tokens):
        store_f32(out[token], band * BAND, load_f32(tile, token * BAND))


@_compile
def matmul(out, band, matrix, x, tile, accumulate):
    """A band's rows of matrix @ x for every token, by the kernel of the matrix's own format.

    out     [n_tokens, n_out]    f32  overwritten, or added to when `accumulate`
    matrix                            a MATRIX record of the step table
    x                                 its input, as step_arrays.Activations
    tile    [n_tokens * 16]      f32  scratch
    """
    n_groups = matrix.n_bands * matrix.n_groups
    codes = carray(pointer_to(matrix.codes, uint8), (n_groups * matrix.group_bytes,))
    scales = carray(pointer_to(matrix.scales, uint16), (n_groups * BAND,))
    if matrix.format == _INT8_NUMBER:
        matmul_int8(out, band, codes, scales, x.codes, x.scales, x.sums, tile, accumulate)
    elif matrix.format == _INT4_NUMBER:
        matmul_int4(out, band, codes, scales, x.codes, x.scales, x.sums, tile, accumulate)
    else:
        weights = carray(pointer_to(matrix.codes, uint16), (n_groups * GROUP * BAND,))
        matmul_f16(out, band, weights, x.values, tile, accumulate)
