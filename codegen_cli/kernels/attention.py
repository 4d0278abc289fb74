"""Causal attention of queries over the fp16 cache of their head.

Some queries of a prompt share each load of a key or a value, and a single one runs alone; both go
over tiles of 16 keys at absolute positions and add in the same order, so a query's result does not
depend on what else is computed beside it.

The cache of one layer and head, with `capacity` positions (a multiple of 16):

    keys    [capacity/16, head_dim, 16]         u16  fp16 bits; a lane is a position
    values  [ceil(head_dim/16), capacity, 16]   u16  fp16 bits; a lane is a dimension
"""

from collections import namedtuple

import numpy as np
from numba import float32, int32, njit

from codegen_cli.kernels.block_product import column_adder, sums_of
from codegen_cli.kernels.pointwise import exp
from codegen_cli.kernels.vectors import (
    PREFETCH,
    every_lane,
    first_lanes,
    fma,
    larger,
    largest_lane,
    load_f16,
    load_f32,
    prefetch,
    store_f16,
    store_f32,
    sum_lanes,
)
from codegen_cli.machine.cpu import kernel_path
from quantize.description.formats import LANES

_MINUS_INFINITY = float32(-np.inf)
_SMALLEST_EXPONENT = float32(-87)

# How far ahead of a single query keys and values are asked for, in fp16 numbers.
_AHEAD = PREFETCH.bytes_ahead // 2

# What a thread's attention works in.
#   scores    [MOST_QUERIES, capacity + 16]  f32
#   chains    [4 * MOST_QUERIES, 16]         f32
#   inverses  [16]                           f32
AttentionScratch = namedtuple("AttentionScratch", "scores chains inverses")

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
            prefetch(keys, at + i * LANES + _AHEAD)
            even = fma(load_f16(keys, at + i * LANES), every_lane(query[i]), even)
            odd = fma(load_f16(keys, at + (i + 1) * LANES), every_lane(query[i + 1]), odd)
        store_f32(scores, first_key, even + odd)


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
        prefetch(values, i + _AHEAD)
        prefetch(values, i + _AHEAD + 2 * LANES)
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


def attention_of(n_queries):
    """As `attend` for so many queries in a row.

    The even and the odd dimensions of a score, and the four chains of a mix, are added one after
    another, so that the sums of all queries stay in registers.
    """
    sums, add_column = sums_of(1, n_queries), column_adder(n_queries)
    zero_sums, store_sums, sum_of = sums.zero, sums.store, sums.add

    @_compile
    def score(scores, qkv, token, first_column, head_dim, keys, n_keys):
        for first_key in range(0, n_keys, LANES):
            at = first_key * head_dim
            even, odd = zero_sums(), zero_sums()
            for i in range(0, head_dim, 2):
                even = add_column(even, keys, at + i * LANES, qkv, token, first_column + i)
            for i in range(1, head_dim, 2):
                odd = add_column(odd, keys, at + i * LANES, qkv, token, first_column + i)
            store_sums(scores, 0, first_key, sum_of(even, odd))

    @_compile
    def mix_common(chains, values, at, scores, n_keys):
        for chain in range(4):
            mixed = zero_sums()
            for key in range(chain, n_keys, 4):
                mixed = add_column(mixed, values, at + key * LANES, scores, 0, key)
            store_sums(chains, chain * n_queries, 0, mixed)

    @_compile
    def attend_several(
        out, out_column, qkv, token, column, head_dim, keys, values, n_keys, scratch
    ):
        """Attend for queries token, token + 1, ..., of which the first sees n_keys positions.

        out     [n_tokens, n_embd padded]    f32  overwritten from out_column on, head_dim wide
        qkv     [n_tokens, rows of qkv_proj] f32  the queries begin at `column`, as for `attend`
        keys, values                         u16  flat, as drawn above
        scratch                                   AttentionScratch
        """
        scores, chains = scratch.scores, scratch.chains
        capacity = keys.shape[0] // head_dim
        score(scores, qkv, token, column, head_dim, keys, n_keys + n_queries - 1)
        for query in range(n_queries):
            scratch.inverses[query] = float32(1) / _exponentiate(scores[query], n_keys + query)
        common = n_keys // 4 * 4  # keys that all queries see
        for first_dim in range(0, head_dim, LANES):
            at = first_dim * capacity
            mix_common(chains, values, at, scores, common)
            for query in range(n_queries):
                a, b = load_f32(chains[query], 0), load_f32(chains[n_queries + query], 0)
                c = load_f32(chains[2 * n_queries + query], 0)
                d = load_f32(chains[3 * n_queries + query], 0)
                mixed = _mix(values, at, scores[query], common, n_keys + query, a, b, c, d)
                place = out[token + query, out_column : out_column + head_dim]
                _store_scaled(place, first_dim, mixed, scratch.inverses[query], chains[query])

    return attend_several


QUERIES = {"avx512vnni": 8}.get(kernel_path(), 4)
"""How many queries attend_several takes at once, at most step_table.MOST_QUERIES."""

attend_several = attention_of(QUERIES)
