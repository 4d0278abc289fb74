"""Rows of a matrix, as a checkpoint has them -> codes and scales in kernel order, in one pass.

The fast twin of groups.py, which defines what a code is, and of packed/layout.py, which draws the
order: a tile of 16 rows and 32 columns at a time is widened, rounded and put in its place.
"""

import math

import numpy as np

from quantize.description.formats import BAND, GROUP, INT8_ZERO, WORD, MatrixFormat
from quantize.rounding.groups import Bytes, Float16, Float32
from quantize.rounding.lanes import (
    COLUMNS,
    absolute,
    every_lane,
    from_fp16,
    larger,
    largest_lane,
    load,
    load_columns,
    round_half_even,
    store_halves,
    store_words,
    sum_lanes,
    to_fp16,
    to_i32,
    where_less,
)
from quantize.rounding.scale_search import (
    F32,
    I32,
    compiled,
    int4_code,
    int4_steps,
    int4_zero,
    search_scales,
)

_TILE = GROUP * BAND


# Arguments of the kernels, overwritten ones first:
#
#     words   [n_bands * n_groups * words of a tile]  u32  codes; f16: u16, a weight each
#     scales  [n_bands * n_groups * 16]               u16  bits of fp16
#     totals  [3]                                     f64  sums of squared errors and weights, and
#                                                          the largest magnitude
#     tile    [32 * 16]                               f32  scratch: a column after another
#     rows    [n_bands * 16 * n_groups * 32]          f32, or u16: bits of fp16
#     n_in                                                 columns that are no padding
#
# groups.py says which code a weight gets; each operation rounds as it does there.


@compiled
def _load_tile(tile, rows, number, n_groups):
    band, group = divmod(number, n_groups)
    n_in = n_groups * GROUP
    for column in range(0, GROUP, COLUMNS):
        load_columns(tile, column, rows, (band * BAND * n_groups + group) * GROUP + column, n_in)


@compiled
def _add_totals(totals, errors, squares, largest):
    totals[0] += sum_lanes(errors)
    totals[1] += sum_lanes(squares)
    totals[2] = max(totals[2], largest_lane(largest))


@compiled
def _int8(words, scales, totals, tile, rows, n_groups, n_in):
    half, one = every_lane(F32(127.5)), every_lane(F32(1))
    for number in range(scales.size // BAND):
        _load_tile(tile, rows, number, n_groups)
        nothing = errors = squares = largest = every_lane(F32(0))
        for column in range(GROUP):
            largest = larger(largest, absolute(load(tile, column * BAND)))
        bits = to_fp16(largest / every_lane(F32(127)))
        next_larger = bits + every_lane(I32(1))
        bits = where_less(half * from_fp16(bits), largest, next_larger, bits)
        scale = from_fp16(bits)
        step = where_less(nothing, scale, scale, one)
        store_halves(scales, number * BAND, bits)
        for word in range(GROUP // WORD):
            packed = every_lane(I32(0))
            for i in range(WORD):
                w = load(tile, (word * WORD + i) * BAND)
                code = round_half_even(w / step)
                difference = code * scale - w
                errors += difference * difference
                squares += w * w
                byte = (to_i32(code) + every_lane(I32(INT8_ZERO))) & every_lane(I32(0xFF))
                packed |= byte << every_lane(I32(8 * i))
            store_words(words, (number * (GROUP // WORD) + word) * BAND, packed)
        _add_totals(totals, errors, squares, largest)


@compiled
def _int4(words, scales, totals, tile, rows, n_groups, n_in):
    four, n_words, scratch = every_lane(F32(4)), GROUP // WORD // 2, np.empty_like(tile)
    for number in range(scales.size // BAND):
        _load_tile(tile, rows, number, n_groups)
        bits = search_scales(tile, scratch)
        store_halves(scales, number * BAND, bits)
        scale, zero = from_fp16(bits), int4_zero(bits)
        step = int4_steps(scale)
        n_columns = min(n_in - number % n_groups * GROUP, GROUP)
        errors = squares = largest = every_lane(F32(0))
        for word in range(n_words):
            packed = every_lane(I32(0))
            for i in range(2 * WORD):
                column = word * WORD + i % WORD + i // WORD * GROUP // 2
                w = load(tile, column * BAND)
                code = int4_code(w / step, zero)
                if column < n_columns:
                    difference = scale * (four * code - zero) - w
                    errors += difference * difference
                squares += w * w
                largest = larger(largest, absolute(w))
                packed |= to_i32(code) << every_lane(I32(i % WORD * 8 + i // WORD * 4))
            store_words(words, (number * n_words + word) * BAND, packed)
        _add_totals(totals, errors, squares, largest)


@compiled
def _f16(words, totals, tile, rows, n_groups, n_in):
    for number in range(words.size // _TILE):
        _load_tile(tile, rows, number, n_groups)
        errors = squares = largest = every_lane(F32(0))
        for column in range(GROUP):
            w = load(tile, column * BAND)
            bits = to_fp16(w)
            difference = from_fp16(bits) - w
            errors += difference * difference
            squares += w * w
            largest = larger(largest, absolute(w))
            store_halves(words, (number * GROUP + column) * BAND, bits)
        _add_totals(totals, errors, squares, largest)


def round_bands(
    format: MatrixFormat,
    n_rows: int,
    n_in: int,
    rows: Float32 | Float16,
    codes: Bytes,
    scales: Float16,
) -> tuple[float, float, float]:
    """Fill codes and scales; return the sums of squared errors and weights, and the largest |w|.

    rows    [n_bands * 16, n_groups * 32]  f32 or f16  zeros beyond n_rows and n_in
    codes   [bytes]                        u8          as layout.codes_view has those of the bands
    scales  [n_bands * n_groups * 16]      f16         as layout.scales_view; not used by f16

    What is not finite, or beyond fp16, gives no codes that mean anything, and a largest magnitude
    that is not within fp16's range: a NaN is one.
    """
    totals, tile = np.zeros(3), np.empty(_TILE, np.float32)
    flat = rows.reshape(-1)
    flat = flat.view(np.uint16) if flat.dtype == np.float16 else flat
    n_groups = rows.shape[1] // GROUP
    if format == "f16":
        _f16(codes.view(np.uint16), totals, tile, flat, n_groups, n_in)
    else:
        kernel, words = _int8 if format == "int8" else _int4, codes.view(np.uint32)
        kernel(words, scales.view(np.uint16), totals, tile, flat, n_groups, n_in)
    if format == "int4" and n_rows % BAND:  # rows of padding have the code 0, not that of 0
        codes.reshape(len(rows) // BAND, -1, BAND, WORD)[-1, :, n_rows % BAND :] = 0
    error, squares, largest = totals.tolist()
    return error, squares, largest if squares == squares else math.nan
