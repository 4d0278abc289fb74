"""Causal attention of one query over the fp16 cache of its head.

Every query runs alone, over tiles of 16 keys at absolute positions, so its result does not depend
on what else is computed in the same call.

The cache of one layer and head, with `capacity` positions (a multiple of 16):

    keys    [capacity/16, head_dim, 16]         u16  fp16 bits; a lane is a position
    values  [ceil(head_dim/16), capacity, 16]   u16  fp16 bits; a lane is a dimension
"""

import numpy as np
from numba import float32, int32, njit

from codegen_cli.kernels.pointwise import exp
from codegen_cli.kernels.vectors import (
    LANES,
    every_lane,
    first_lanes,
    fma,
    larger,
    largest_lane,
    load_f16,
    load_f32,
    store_f16,
    store_f32,
    sum_lanes,
)

_MINUS_INFINITY = float32(-np.inf)
_SMALLEST_EXPONENT = float32(-87)

_compile = njit(nogil=True, error_model="numpy")


@_compile
def remember(keys, values, position, key, value):
    """Round one head's key and value to fp16 and store them at `position`.

    keys, values        flat, as drawn above
    key, value  [head_dim]  f32
    """
    head_dim = key.shape[0]
    capacity = keys.shape[0] // head_dim
    tile, lane = position // LANES, position % LANES
    for i in range(head_dim):
        store_f16(keys, (tile * head_dim + i) * LANES + lane, key[i])
        store_f16(values, (i // LANES * capacity + position) * LANES + i % LANES, value[i])


@_compile
def _score(scores, query, keys, n_keys):
    """scores[:n_keys] = keys @ query, -inf up to the end of the last tile; return the largest."""
    head_dim = query.shape[0]
    largest = every_lane(_MINUS_INFINITY)
    for first_key in range(0, n_keys, LANES):
        at = first_key * head_dim
        even, odd = every_lane(float32(0)), every_lane(float32(0))
        for i in range(0, head_dim, 2):
            even = fma(load_f16(keys, at + i * LANES), every_lane(query[i]), even)
            odd = fma(load_f16(keys, at + (i + 1) * LANES), every_lane(query[i + 1]), odd)
        total = first_lanes(even + odd, int32(n_keys - first_key), _MINUS_INFINITY)
        store_f32(scores, first_key, total)
        largest = larger(total, largest)
    return largest_lane(largest)


@_compile
def _exponentiate(scores, n_keys, largest):
    """scores = exp(scores - largest), exactly 0 past n_keys; return their sum."""
    total = every_lane(float32(0))
    for first_key in range(0, n_keys, LANES):
        exponent = load_f32(scores, first_key) - every_lane(largest)
        share = exp(larger(exponent, every_lane(_SMALLEST_EXPONENT)))
        share = first_lanes(share, int32(n_keys - first_key), float32(0))
        store_f32(scores, first_key, share)
        total = total + share
    return sum_lanes(total)


@_compile
def _mix_values(values, at, scores, n_keys):
    """sum of scores[key] * values[key] for 16 dimensions; four chains, by key modulo 4."""
    a = b = c = d = every_lane(float32(0))
    whole = n_keys // 4 * 4
    for key in range(0, whole, 4):
        i = at + key * LANES
        a = fma(load_f16(values, i), every_lane(scores[key]), a)
        b = fma(load_f16(values, i + LANES), every_lane(scores[key + 1]), b)
        c = fma(load_f16(values, i + 2 * LANES), every_lane(scores[key + 2]), c)
        d = fma(load_f16(values, i + 3 * LANES), every_lane(scores[key + 3]), d)
    if whole < n_keys:
        a = fma(load_f16(values, at + whole * LANES), every_lane(scores[whole]), a)
    if whole + 1 < n_keys:
        b = fma(load_f16(values, at + (whole + 1) * LANES), every_lane(scores[whole + 1]), b)
    if whole + 2 < n_keys:
        c = fma(load_f16(values, at + (whole + 2) * LANES), every_lane(scores[whole + 2]), c)
    return (a + b) + (c + d)


@_compile
def attend(out, query, keys, values, n_keys, scores):
    """out = softmax(keys @ query) @ values over the first n_keys positions.

    out     [head_dim]          f32  overwritten
    query   [head_dim]          f32  rotated and divided by sqrt(head_dim)
    keys, values                u16  flat, as drawn above
    scores  [capacity + 16]     f32  scratch
    """
    head_dim = query.shape[0]
    capacity = keys.shape[0] // head_dim
    largest = _score(scores, query, keys, n_keys)
    inverse = every_lane(float32(1) / _exponentiate(scores, n_keys, largest))
    mixed = scores[capacity:]
    for first_dim in range(0, head_dim, LANES):
        store_f32(mixed, 0, _mix_values(values, first_dim * capacity, scores, n_keys) * inverse)
        for i in range(first_dim, min(first_dim + LANES, head_dim)):
            out[i] = mixed[i - first_dim]
