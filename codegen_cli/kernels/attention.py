"""Causal attention of queries over the fp16 cache of their head.

Four queries of a prompt share each load of a key or a value, and a single one runs alone; both go
over tiles of 16 keys at absolute positions and add in the same order, so a query's result does not
depend on what else is computed beside it.

The cache of one layer and head, with `capacity` positions (a multiple of 16):

    keys    [capacity/16, head_dim, 16]         u16  fp16 bits; a lane is a position
    values  [ceil(head_dim/16), capacity, 16]   u16  fp16 bits; a lane is a dimension
"""

import numpy as np
from numba import float32, int32, njit

from codegen_cli.kernels.pointwise import exp
from codegen_cli.kernels.vectors import (
    every_lane,
    first_lanes,
    fma,
    larger,
    largest_lane,
    load_f16,
    load_f32,
    prefetch_once,
    store_f16,
    store_f32,
    sum_lanes,
)
from quantize.description.formats import LANES

_MINUS_INFINITY = float32(-np.inf)
_SMALLEST_EXPONENT = float32(-87)

# How far ahead of a single query keys and values are asked for, in fp16 numbers: a page of 4 KB.
_AHEAD = 2048

_compile = njit(nogil=True, error_model="numpy")


@_compile
def remember(keys, values, position, key, value):
    """Round one head's key and value to fp16 and store them at `position`.

    keys, values              u16  flat, as drawn above
    key, value    [head_dim]  f32
    """
    head_dim = key.shape[0]
    capacity = keys.shape[0] // head_dim
    tile, lane = position // LANES, position % LANES
    for i in range(head_dim):
        store_f16(keys, (tile * head_dim + i) * LANES + lane, key[i])
        store_f16(values, (i // LANES * capacity + position) * LANES + i % LANES, value[i])


@_compile
def _score(scores, query, keys, n_keys):
    """scores[:n_keys] = keys @ query, by whole tiles: what follows up to their end is undefined.

    scores  [>= n_keys rounded up to 16]  f32  overwritten
    query   [head_dim]                    f32
    keys                                  u16  flat, as drawn above
    """
    head_dim = query.shape[0]
    for first_key in range(0, n_keys, LANES):
        at = first_key * head_dim
        even, odd = every_lane(float32(0)), every_lane(float32(0))
        for i in range(0, head_dim, 2):
            prefetch_once(keys, at + i * LANES + _AHEAD)
            even = fma(load_f16(keys, at + i * LANES), every_lane(query[i]), even)
            odd = fma(load_f16(keys, at + (i + 1) * LANES), every_lane(query[i + 1]), odd)
        store_f32(scores, first_key, even + odd)


@_compile
def _score_four(scores, queries, keys, n_keys):
    """As `_score` for each of four queries.

    scores   4 arrays  [>= n_keys rounded up to 16]  f32  overwritten
    queries  4 arrays  [head_dim]                    f32
    keys                                             u16  flat, as drawn above
    """
    head_dim = queries[0].shape[0]
    for first_key in range(0, n_keys, LANES):
        at = first_key * head_dim
        even0 = even1 = even2 = even3 = every_lane(float32(0))
        odd0 = odd1 = odd2 = odd3 = every_lane(float32(0))
        for i in range(0, head_dim, 2):
            key = load_f16(keys, at + i * LANES)
            even0 = fma(key, every_lane(queries[0][i]), even0)
            even1 = fma(key, every_lane(queries[1][i]), even1)
            even2 = fma(key, every_lane(queries[2][i]), even2)
            even3 = fma(key, every_lane(queries[3][i]), even3)
            key = load_f16(keys, at + (i + 1) * LANES)
            odd0 = fma(key, every_lane(queries[0][i + 1]), odd0)
            odd1 = fma(key, every_lane(queries[1][i + 1]), odd1)
            odd2 = fma(key, every_lane(queries[2][i + 1]), odd2)
            odd3 = fma(key, every_lane(queries[3][i + 1]), odd3)
        store_f32(scores[0], first_key, even0 + odd0)
        store_f32(scores[1], first_key, even1 + odd1)
        store_f32(scores[2], first_key, even2 + odd2)
        store_f32(scores[3], first_key, even3 + odd3)


@_compile
def _exponentiate(scores, n_keys):
    """scores = exp(scores - the largest), exactly 0 past n_keys; return their sum.

    scores  [>= n_keys rounded up to 16]  f32  overwritten
    """
    largest = every_lane(_MINUS_INFINITY)
    for first_key in range(0, n_keys, LANES):
        tile = load_f32(scores, first_key)
        largest = larger(first_lanes(tile, int32(n_keys - first_key), _MINUS_INFINITY), largest)
    subtracted = every_lane(largest_lane(largest))
    total = every_lane(float32(0))
    for first_key in range(0, n_keys, LANES):
        exponent = load_f32(scores, first_key) - subtracted
        share = exp(larger(exponent, every_lane(_SMALLEST_EXPONENT)))
        share = first_lanes(share, int32(n_keys - first_key), float32(0))
        store_f32(scores, first_key, share)
        total = total + share
    return sum_lanes(total)


@_compile
def _mix(values, at, scores, first_key, n_keys, a, b, c, d):
    """Add scores[key] * values[key] from first_key on to four chains, by key modulo 4; their sum.

    Of 16 dimensions, whose values begin at `at`; first_key is a multiple of 4.

    values                   u16  flat, as drawn above
    scores      [>= n_keys]  f32
    a, b, c, d  [16 lanes]   f32  the chains so far
    """
    whole = n_keys // 4 * 4
    for key in range(first_key, whole, 4):
        i = at + key * LANES
        prefetch_once(values, i + _AHEAD)
        prefetch_once(values, i + _AHEAD + 2 * LANES)
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
def _mix_four(mixed, values, at, scores, n_keys):
    """mixed[j] = the sum over n_keys + j keys for query j; the chains are those of `_mix`.

    mixed   4 arrays  [16]               f32  overwritten
    values                               u16  flat, as drawn above
    scores  4 arrays  [>= n_keys + 3]    f32
    """
    zero = every_lane(float32(0))
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = zero
    whole = n_keys // 4 * 4  # keys that all four queries see
    for key in range(0, whole, 4):
        i = at + key * LANES
        value = load_f16(values, i)
        a0 = fma(value, every_lane(scores[0][key]), a0)
        a1 = fma(value, every_lane(scores[1][key]), a1)
        a2 = fma(value, every_lane(scores[2][key]), a2)
        a3 = fma(value, every_lane(scores[3][key]), a3)
        value = load_f16(values, i + LANES)
        b0 = fma(value, every_lane(scores[0][key + 1]), b0)
        b1 = fma(value, every_lane(scores[1][key + 1]), b1)
        b2 = fma(value, every_lane(scores[2][key + 1]), b2)
        b3 = fma(value, every_lane(scores[3][key + 1]), b3)
        value = load_f16(values, i + 2 * LANES)
        c0 = fma(value, every_lane(scores[0][key + 2]), c0)
        c1 = fma(value, every_lane(scores[1][key + 2]), c1)
        c2 = fma(value, every_lane(scores[2][key + 2]), c2)
        c3 = fma(value, every_lane(scores[3][key + 2]), c3)
        value = load_f16(values, i + 3 * LANES)
        d0 = fma(value, every_lane(scores[0][key + 3]), d0)
        d1 = fma(value, every_lane(scores[1][key + 3]), d1)
        d2 = fma(value, every_lane(scores[2][key + 3]), d2)
        d3 = fma(value, every_lane(scores[3][key + 3]), d3)
    store_f32(mixed[0], 0, _mix(values, at, scores[0], whole, n_keys, a0, b0, c0, d0))
    store_f32(mixed[1], 0, _mix(values, at, scores[1], whole, n_keys + 1, a1, b1, c1, d1))
    store_f32(mixed[2], 0, _mix(values, at, scores[2], whole, n_keys + 2, a2, b2, c2, d2))
    store_f32(mixed[3], 0, _mix(values, at, scores[3], whole, n_keys + 3, a3, b3, c3, d3))


@_compile
def _store_scaled(out, first_dim, mixed, inverse, scratch):
    """out[first_dim : first_dim + 16] = mixed * inverse, as far as out goes.

    out      [head_dim]  f32  overwritten there
    mixed    [16 lanes]  f32
    scratch  [16]        f32
    """
    scaled = mixed * every_lane(inverse)
    if first_dim + LANES <= out.shape[0]:
        store_f32(out, first_dim, scaled)
        return
    store_f32(scratch, 0, scaled)
    for i in range(first_dim, out.shape[0]):
        out[i] = scratch[i - first_dim]


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
    _score(scores, query, keys, n_keys)
    inverse = float32(1) / _exponentiate(scores, n_keys)
    zero = every_lane(float32(0))
    for first_dim in range(0, head_dim, LANES):
        at = first_dim * capacity
        mixed = _mix(values, at, scores, 0, n_keys, zero, zero, zero, zero)
        _store_scaled(out, first_dim, mixed, inverse, scores[capacity:])


@_compile
def attend_four(outs, queries, keys, values, n_keys, scores):
    """As `attend` for four queries in a row, of which the first sees n_keys positions.

    outs, queries  4 arrays  [head_dim]          f32
    keys, values                                 u16  flat, as drawn above
    scores                   [4, capacity + 16]  f32  scratch
    """
    head_dim = queries[0].shape[0]
    capacity = keys.shape[0] // head_dim
    scores = (scores[0], scores[1], scores[2], scores[3])
    _score_four(scores, queries, keys, n_keys + 3)
    inverse0 = float32(1) / _exponentiate(scores[0], n_keys)
    inverse1 = float32(1) / _exponentiate(scores[1], n_keys + 1)
    inverse2 = float32(1) / _exponentiate(scores[2], n_keys + 2)
    inverse3 = float32(1) / _exponentiate(scores[3], n_keys + 3)
    mixed = (scores[0][capacity:], scores[1][capacity:], scores[2][capacity:], scores[3][capacity:])
    for first_dim in range(0, head_dim, LANES):
        _mix_four(mixed, values, first_dim * capacity, scores, n_keys)
        _store_scaled(outs[0], first_dim, load_f32(mixed[0], 0), inverse0, mixed[0])
        _store_scaled(outs[1], first_dim, load_f32(mixed[1], 0), inverse1, mixed[1])
        _store_scaled(outs[2], first_dim, load_f32(mixed[2], 0), inverse2, mixed[2])
        _store_scaled(outs[3], first_dim, load_f32(mixed[3], 0), inverse3, mixed[3])
