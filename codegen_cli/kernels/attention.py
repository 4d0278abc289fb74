"""Causal attention of queries over the fp16 cache of their text and head.

Some queries of a prompt share each load of a key or a value, and a single one runs alone; both go
over tiles of 16 keys at absolute positions and add in the same order, so a query's result does not
depend on what else is computed beside it, nor on where its blocks lie.

A block of the cache has BLOCK positions of a text, for all layers and heads. Of one layer and head:

    keys    [BLOCK/16, head_dim, 16]         u16  fp16 bits; a lane is a position
    values  [ceil(head_dim/16), BLOCK, 16]   u16  fp16 bits; a lane is a dimension
"""

from collections import namedtuple

import numpy as np
from numba import carray, float32, int32, njit, uint16

from codegen_cli.kernels.block_product import column_adder, key_adder, sums_of
from codegen_cli.kernels.pointwise import exp
from codegen_cli.kernels.step_table import BLOCK
from codegen_cli.kernels.threading_primitives import pointer_to
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
from quantize.description.formats import LANES, LINE_BYTES

_MINUS_INFINITY = float32(-np.inf)
_SMALLEST_EXPONENT = float32(-87)

_TILES = BLOCK // LANES  # of keys in a block

# How far ahead of a single query keys and values are asked for: in fp16 numbers, and in runs of the
# values of a block's positions, of 16 dimensions.
_AHEAD = PREFETCH.bytes_ahead // 2
_RUN = BLOCK * LANES
_RUNS_AHEAD = max(1, _AHEAD // _RUN)

# Of so many keys at a time values are added up: of fewer, ends of loops would cost a tenth.
_KEYS = 16
_add_keys, _add_four = key_adder(_KEYS), key_adder(4)
_load_sums, _store_sums = sums_of(1, 4).load, sums_of(1, 4).store

_LINE = LINE_BYTES // 2  # in fp16 numbers

# Where a layer and head's keys and values are.
#   blocks    [n_blocks]  i64  addresses
#   place     from a block's beginning, in fp16 numbers; the values follow the keys
#   head_dim
HeadCache = namedtuple("HeadCache", "blocks place head_dim")

# What a thread's attention works in.
#   scores    [MOST_QUERIES, capacity + 16]  f32
#   chains    [n_chains, 16]                 f32  four of each query, or of each 16 dimensions
#   inverses  [16]                           f32
#   scaled    [16]                           f32
AttentionScratch = namedtuple("AttentionScratch", "scores chains inverses scaled")

_compile = njit(nogil=True, error_model="numpy")


@_compile
def _keys_of(cache, block):
    """The keys of a block, flat."""
    address = cache.blocks[block] + 2 * cache.place
    return carray(pointer_to(address, uint16), (BLOCK * cache.head_dim,))


@_compile
def _values_of(cache, block):
    """The values of a block, flat."""
    address = cache.blocks[block] + 2 * (cache.place + BLOCK * cache.head_dim)
    n_columns = (cache.head_dim + LANES - 1) // LANES * LANES
    return carray(pointer_to(address, uint16), (BLOCK * n_columns,))


@_compile
def remember(cache, position, key, value):
    """Round one head's key and value to fp16 and store them at `position`.

    cache                          HeadCache
    key, value    [head_dim]  f32
    """
    keys, values = _keys_of(cache, position // BLOCK), _values_of(cache, position // BLOCK)
    in_block = position % BLOCK
    tile, lane = in_block // LANES, in_block % LANES
    for i in range(cache.head_dim):
        store_f16(keys, (tile * cache.head_dim + i) * LANES + lane, key[i])
        store_f16(values, (i // LANES * BLOCK + in_block) * LANES + i % LANES, value[i])


@_compile
def _score(scores, query, cache, n_keys):
    """scores[:n_keys] = keys @ query, by whole tiles: what follows up to their end is undefined.

    scores  [>= n_keys rounded up to 16]  f32  overwritten
    query   [head_dim]                    f32
    cache                                      HeadCache
    """
    tile, ahead = cache.head_dim * LANES, 1
    while (ahead + 1) * tile <= _AHEAD:
        ahead += 1
    n_tiles, last = (n_keys + LANES - 1) // LANES, (n_keys - 1) // BLOCK
    for block in range(last + 1):
        keys, following = _keys_of(cache, block), _keys_of(cache, min(block + 1, last))
        first = block * _TILES
        for number in range(min(n_tiles - first, _TILES)):
            asked, asked_at = keys, number + ahead
            if asked_at >= _TILES:
                asked, asked_at = following, asked_at - _TILES
            at, asked_at = number * tile, asked_at * tile
            even, odd = every_lane(float32(0)), every_lane(float32(0))
            for i in range(0, cache.head_dim, 2):
                prefetch(asked, asked_at + i * LANES)
                even = fma(load_f16(keys, at + i * LANES), every_lane(query[i]), even)
                odd = fma(load_f16(keys, at + (i + 1) * LANES), every_lane(query[i + 1]), odd)
            store_f32(scores, (first + number) * LANES, even + odd)


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
def _mix(chains, cache, scores, n_keys):
    """Add scores[key] * values[key] to four chains, by key modulo 4, of each 16 dimensions.

    chains  [>= 4 * ceil(head_dim/16), 16]  f32  overwritten
    cache                                        HeadCache
    scores  [>= n_keys]                     f32
    n_keys  a multiple of 4
    """
    n_runs, last = (cache.head_dim + LANES - 1) // LANES, (n_keys - 1) // BLOCK
    for row in range(4 * n_runs):
        store_f32(chains[row], 0, every_lane(float32(0)))
    for block in range(last + 1):
        values, following = _values_of(cache, block), _values_of(cache, min(block + 1, last))
        end = min((block + 1) * BLOCK, n_keys)
        for run in range(n_runs):
            asked, ahead = values, run + _RUNS_AHEAD
            if ahead >= n_runs:
                asked, ahead = following, ahead - n_runs
            i, asked_i, key = run * _RUN, ahead * _RUN, block * BLOCK
            sums = _load_sums(chains, 4 * run, 0)
            while key + _KEYS <= end:
                for line in range(0, _KEYS * LANES, _LINE):
                    prefetch(asked, asked_i + line)
                sums = _add_keys(sums, values, i, scores, key)
                i, asked_i, key = i + _KEYS * LANES, asked_i + _KEYS * LANES, key + _KEYS
            while key < end:
                sums = _add_four(sums, values, i, scores, key)
                i, key = i + 4 * LANES, key + 4
            _store_sums(chains, 4 * run, 0, sums)


@_compile
def _mix_last(cache, run, scores, first_key, n_keys, a, b, c, d):
    """The sum of four chains, once keys from first_key, a multiple of 4, up to n_keys are added.

    cache                    HeadCache
    run                      which 16 dimensions
    scores      [>= n_keys]  f32
    a, b, c, d  [16 lanes]   f32  the chains so far
    """
    for key in range(first_key, n_keys, 4):
        values, i = _values_of(cache, key // BLOCK), run * _RUN + key % BLOCK * LANES
        a = fma(load_f16(values, i), every_lane(scores[key]), a)
        if key + 1 < n_keys:
            b = fma(load_f16(values, i + LANES), every_lane(scores[key + 1]), b)
        if key + 2 < n_keys:
            c = fma(load_f16(values, i + 2 * LANES), every_lane(scores[key + 2]), c)
        if key + 3 < n_keys:
            d = fma(load_f16(values, i + 3 * LANES), every_lane(scores[key + 3]), d)
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
def attend(out, query, cache, n_keys, scratch):
    """out = softmax(keys @ query) @ values over the first n_keys positions.

    out     [head_dim]  f32  overwritten
    query   [head_dim]  f32  rotated and divided by sqrt(head_dim)
    cache                    HeadCache
    scratch                  AttentionScratch
    """
    scores, chains, whole = scratch.scores[0], scratch.chains, n_keys // 4 * 4
    _score(scores, query, cache, n_keys)
    inverse = float32(1) / _exponentiate(scores, n_keys)
    _mix(chains, cache, scores, whole)
    for first_dim in range(0, cache.head_dim, LANES):
        run = first_dim // LANES
        a, b = load_f32(chains[4 * run], 0), load_f32(chains[4 * run + 1], 0)
        c, d = load_f32(chains[4 * run + 2], 0), load_f32(chains[4 * run + 3], 0)
        mixed = _mix_last(cache, run, scores, whole, n_keys, a, b, c, d)
        _store_scaled(out, first_dim, mixed, inverse, scratch.scaled)


def attention_of(n_queries):
    """As `attend` for so many queries in a row.

    The even and the odd dimensions of a score, and the four chains of a mix, are added one after
    another, so that the sums of all queries stay in registers.
    """
    sums, add_column = sums_of(1, n_queries), column_adder(n_queries)
    zero_sums, store_sums, sum_of = sums.zero, sums.store, sums.add

    @_compile
    def score(scores, qkv, token, first_column, cache, n_keys):
        head_dim = cache.head_dim
        for first_key in range(0, n_keys, LANES):
            keys = _keys_of(cache, first_key // BLOCK)
            at = first_key % BLOCK * head_dim
            even, odd = zero_sums(), zero_sums()
            for i in range(0, head_dim, 2):
                even = add_column(even, keys, at + i * LANES, qkv, token, first_column + i)
            for i in range(1, head_dim, 2):
                odd = add_column(odd, keys, at + i * LANES, qkv, token, first_column + i)
            store_sums(scores, 0, first_key, sum_of(even, odd))

    @_compile
    def mix_common(chains, cache, run, scores, n_keys):
        for chain in range(4):
            mixed = zero_sums()
            for start in range(0, n_keys, BLOCK):
                values, at = _values_of(cache, start // BLOCK), run * _RUN - start * LANES
                for key in range(start + chain, min(start + BLOCK, n_keys), 4):
                    mixed = add_column(mixed, values, at + key * LANES, scores, 0, key)
            store_sums(chains, chain * n_queries, 0, mixed)

    @_compile
    def attend_several(out, out_column, qkv, token, column, cache, n_keys, scratch):
        """Attend for queries token, token + 1, ..., of which the first sees n_keys positions.

        out     [n_tokens, n_embd padded]    f32  overwritten from out_column on, head_dim wide
        qkv     [n_tokens, rows of qkv_proj] f32  the queries begin at `column`, as for `attend`
        cache                                     HeadCache
        scratch                                   AttentionScratch
        """
        scores, chains, head_dim = scratch.scores, scratch.chains, cache.head_dim
        score(scores, qkv, token, column, cache, n_keys + n_queries - 1)
        for query in range(n_queries):
            scratch.inverses[query] = float32(1) / _exponentiate(scores[query], n_keys + query)
        common = n_keys // 4 * 4  # keys that all queries see
        for first_dim in range(0, head_dim, LANES):
            run = first_dim // LANES
            mix_common(chains, cache, run, scores, common)
            for query in range(n_queries):
                a, b = load_f32(chains[query], 0), load_f32(chains[n_queries + query], 0)
                c = load_f32(chains[2 * n_queries + query], 0)
                d = load_f32(chains[3 * n_queries + query], 0)
                n_own = n_keys + query
                mixed = _mix_last(cache, run, scores[query], common, n_own, a, b, c, d)
                place = out[token + query, out_column : out_column + head_dim]
                _store_scaled(place, first_dim, mixed, scratch.inverses[query], scratch.scaled)

    return attend_several


QUERIES = {"avx512vnni": 8}.get(kernel_path(), 4)
"""How many queries attend_several takes at once, at most step_table.MOST_QUERIES."""

attend_several = attention_of(QUERIES)
