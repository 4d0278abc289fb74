"""Matrix products: packed blocks of 16 rows times the activations of one or more tokens.

One function per format serves a single token and a prefill alike: a block's weights are loaded once
and used for every token of the call, and each (row, token) adds its groups of 32 columns in the
same order whatever else is computed beside it. So a logit does not depend on how ids are batched,
and not on which thread computes which block.
"""

from numba import float32, int32, njit

from codegen_cli.kernels.dot_product import (
    dot_4_bytes,
    four_times_high_nibbles,
    four_times_low_nibbles,
    load_4_bytes_everywhere,
    load_bytes,
    load_int4_zeros,
)
from codegen_cli.kernels.vectors import (
    LANES,
    every_lane,
    fma,
    load_f16,
    load_f32,
    prefetch,
    store_f32,
    to_f32,
)

# Format numbers in the step table.
INT8, INT4, F16 = 0, 1, 2

_GROUP = 32
_INT8_ZERO = 128  # stored code of a weight that is 0
_INT8_GROUP_BYTES = LANES * _GROUP
_INT4_GROUP_BYTES = LANES * _GROUP // 2

# How far ahead codes are asked for. The CPU foresees reads only within a page of 4 KB, and at each
# new one waits for memory and for its address.
_BYTES_AHEAD = 8192

_compile = njit(nogil=True, error_model="numpy")


@_compile
def _load_tile(tile, out, row, accumulate):
    zero = every_lane(float32(0))
    for token in range(out.shape[0]):
        store_f32(tile, token * LANES, load_f32(out[token], row) if accumulate else zero)


@_compile
def _store_tile(out, row, tile):
    for token in range(out.shape[0]):
        store_f32(out[token], row, load_f32(tile, token * LANES))


# Inlined by numba, as LLVM might not: a call would pass eight registers of weights by memory.
_inline = njit(nogil=True, error_model="numpy", inline="always")


@_inline
def _prefetch_group(codes, at, n_bytes, scales, scales_at):
    """Ask for the codes of a later group, and for its scales."""
    for line in range(0, n_bytes, 64):
        prefetch(codes, at + _BYTES_AHEAD + line)
    prefetch(scales, scales_at + _BYTES_AHEAD // n_bytes * LANES)


@_inline
def _dot_group(total, weights, x, at):
    """total + the exact products of a group: 8 vectors of weights x 32 activations at x[at:]."""
    total = dot_4_bytes(total, weights[0], load_4_bytes_everywhere(x, at))
    total = dot_4_bytes(total, weights[1], load_4_bytes_everywhere(x, at + 4))
    total = dot_4_bytes(total, weights[2], load_4_bytes_everywhere(x, at + 8))
    total = dot_4_bytes(total, weights[3], load_4_bytes_everywhere(x, at + 12))
    total = dot_4_bytes(total, weights[4], load_4_bytes_everywhere(x, at + 16))
    total = dot_4_bytes(total, weights[5], load_4_bytes_everywhere(x, at + 20))
    total = dot_4_bytes(total, weights[6], load_4_bytes_everywhere(x, at + 24))
    return dot_4_bytes(total, weights[7], load_4_bytes_everywhere(x, at + 28))


@_inline
def _add_group(tile, token, total, scale, x_scale):
    """Add a group's sum, scaled, to a token's row of the tile."""
    sum_so_far = load_f32(tile, token * LANES)
    both_scales = scale * every_lane(x_scale[token])
    store_f32(tile, token * LANES, fma(to_f32(total), both_scales, sum_so_far))


@_compile
def matmul_int8(out, block, codes, scales, x_codes, x_scales, x_sums, tile, accumulate):
    """Rows 16 * block ... of W @ x for every token.

    out       [n_tokens, n_out]            f32  overwritten, or added to when `accumulate`
    codes     [n_out/16 * n_groups * 512]  u8   blocks [n_groups][8][16 rows][4 columns], code + 128
    scales    [n_out/16 * n_groups * 16]   u16  fp16 bits, [n_groups][16 rows]
    x_codes   [n_groups, n_tokens * 32]    i8   activations, 32 columns a group
    x_scales  [n_groups, n_tokens]         f32
    x_sums    [n_groups, n_tokens]         i32  sum of a group's x_codes
    tile      [n_tokens * 16]              f32  scratch

    W = (codes - 128) * scales. Subtracting 128 from every code is the same as starting a group's
    exact integer sum at -128 * x_sums.
    """
    n_tokens, n_groups = out.shape[0], x_codes.shape[0]
    _load_tile(tile, out, block * LANES, accumulate)
    for group in range(n_groups):
        at = (block * n_groups + group) * _INT8_GROUP_BYTES
        scales_at = (block * n_groups + group) * LANES
        _prefetch_group(codes, at, _INT8_GROUP_BYTES, scales, scales_at)
        weights = (
            load_bytes(codes, at),
            load_bytes(codes, at + 64),
            load_bytes(codes, at + 128),
            load_bytes(codes, at + 192),
            load_bytes(codes, at + 256),
            load_bytes(codes, at + 320),
            load_bytes(codes, at + 384),
            load_bytes(codes, at + 448),
        )
        scale = load_f16(scales, scales_at)
        x, x_scale, x_sum = x_codes[group], x_scales[group], x_sums[group]
        for token in range(n_tokens):
            start = every_lane(int32(-_INT8_ZERO * x_sum[token]))
            total = _dot_group(start, weights, x, token * _GROUP)
            _add_group(tile, token, total, scale, x_scale)
    _store_tile(out, block * LANES, tile)


@_compile
def matmul_int4(out, block, codes, scales, x_codes, x_scales, x_sums, tile, accumulate):
    """Rows 16 * block ... of W @ x for every token; arguments as in matmul_int8 but

    codes     [n_out/16 * n_groups * 256]  u8   blocks [n_groups][4][16 rows][4 columns]: the low
                                                nibbles hold a group's columns 0-15, the high
                                                nibbles columns 16-31

    W = (4 * codes - zeros) * scales, where zeros = 14 + the lowest 5 bits of the fp16 scales.
    A group's exact integer sum starts at -zeros * x_sums; it stays below 2**18.
    """
    n_tokens, n_groups = out.shape[0], x_codes.shape[0]
    _load_tile(tile, out, block * LANES, accumulate)
    for group in range(n_groups):
        at = (block * n_groups + group) * _INT4_GROUP_BYTES
        scales_at = (block * n_groups + group) * LANES
        _prefetch_group(codes, at, _INT4_GROUP_BYTES, scales, scales_at)
        p0, p1 = load_bytes(codes, at), load_bytes(codes, at + 64)
        p2, p3 = load_bytes(codes, at + 128), load_bytes(codes, at + 192)
        weights = (
            four_times_low_nibbles(p0),
            four_times_low_nibbles(p1),
            four_times_low_nibbles(p2),
            four_times_low_nibbles(p3),
            four_times_high_nibbles(p0),
            four_times_high_nibbles(p1),
            four_times_high_nibbles(p2),
            four_times_high_nibbles(p3),
        )
        scale = load_f16(scales, scales_at)
        zeros = load_int4_zeros(scales, scales_at)
        x, x_scale, x_sum = x_codes[group], x_scales[group], x_sums[group]
        for token in range(n_tokens):
            start = zeros * every_lane(int32(-x_sum[token]))
            total = _dot_group(start, weights, x, token * _GROUP)
            _add_group(tile, token, total, scale, x_scale)
    _store_tile(out, block * LANES, tile)


@_compile
def matmul_f16(out, block, weights, x, tile, accumulate):
    """Rows 16 * block ... of W @ x for every token, in float32.

    out      [n_tokens, n_out]           f32  overwritten, or added to when `accumulate`
    weights  [n_out/16 * n_in * 16]      u16  fp16 bits, blocks [n_in][16 rows]
    x        [n_tokens, n_in]            f32
    tile     [n_tokens * 16]             f32  scratch
    """
    n_tokens, n_in = x.shape
    _load_tile(tile, out, block * LANES, accumulate)
    # A group of columns at a time, so that its weights stay in the first-level cache.
    for start in range(0, n_in, _GROUP):
        at = (block * n_in + start) * LANES
        for token in range(n_tokens):
            row = x[token]
            total = load_f32(tile, token * LANES)
            for column in range(_GROUP):
                weight = load_f16(weights, at + column * LANES)
                total = fma(weight, every_lane(row[start + column]), total)
            store_f32(tile, token * LANES, total)
    _store_tile(out, block * LANES, tile)
