"""Attention of queries over the fp16 cache against float64."""

import numpy as np
import pytest

from codegen_cli.kernels.attention import (
    AttentionScratch,
    HeadCache,
    attend,
    attention_of,
    remember,
)
from codegen_cli.kernels.step_table import BLOCK

N_BLOCKS = 2
CAPACITY = N_BLOCKS * BLOCK
PLACE = 7 * 16  # of the head in each block, whatever stands before


class Cache:
    """A head's keys and values in blocks that lie apart, as kernels are given them."""

    def __init__(self, head_dim):
        n_columns = -(-head_dim // 16) * 16
        size = PLACE + BLOCK * (head_dim + n_columns)
        self.blocks = [np.full(size, 0x7E00, np.uint16) for _ in range(N_BLOCKS)]  # not a number
        self.addresses = np.array([block.ctypes.data for block in self.blocks])
        self.head = HeadCache(self.addresses, PLACE, head_dim)


def filled_cache(head_dim, n_keys, seed=0):
    """A cache of n_keys random positions, with the fp16 values that it holds."""
    random = np.random.default_rng(seed)
    cache = Cache(head_dim)
    key = random.normal(0, 1, (n_keys, head_dim)).astype(np.float16)
    value = random.normal(0, 1, (n_keys, head_dim)).astype(np.float16)
    for position in range(n_keys):
        rows = key[position].astype(np.float32), value[position].astype(np.float32)
        remember(cache.head, position, *rows)
    return cache, key.astype(np.float64), value.astype(np.float64)


def new_scratch(n_queries=1):
    return AttentionScratch(
        np.full((n_queries, CAPACITY + 16), 99, np.float32),
        np.full((64, 16), 99, np.float32),
        np.full(16, 99, np.float32),
        np.full(16, 99, np.float32),
    )


def run(query, cache, n_keys):
    out = np.empty(len(query), np.float32)
    attend(out, query, cache.head, n_keys, new_scratch())
    return out


@pytest.mark.parametrize("head_dim", [6, 32, 80, 256])
@pytest.mark.parametrize("n_keys", [1, 2, 3, 15, 16, 17, 127, 128, 129, 130, 143, 250, 256])
def test_attention_matches_float64(head_dim, n_keys):
    cache, key, value = filled_cache(head_dim, n_keys)
    query = np.random.default_rng(1).normal(0, 0.3, head_dim).astype(np.float32)
    scores = key @ query
    weights = np.exp(scores - scores.max())
    expected = weights @ value / weights.sum()
    np.testing.assert_allclose(run(query, cache, n_keys), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_keys", [21, 137])
def test_later_positions_do_not_matter(n_keys):
    cache, _, _ = filled_cache(32, CAPACITY)
    query = np.random.default_rng(1).normal(0, 0.3, 32).astype(np.float32)
    before = run(query, cache, n_keys)
    infinity = np.full(32, np.inf, np.float32)
    for position in range(n_keys, CAPACITY):
        remember(cache.head, position, infinity, infinity)
    assert np.array_equal(run(query, cache, n_keys), before)


@pytest.mark.parametrize("n_queries", [4, 8])  # as the kernel paths take them
def test_queries_together_give_what_each_gives_alone(n_queries):
    attend_several = attention_of(n_queries)
    scratch = new_scratch(n_queries)
    infinity = np.full(256, np.inf, np.float32)
    for head_dim in (6, 32, 80, 256):
        for n_keys in (1, 2, 3, 4, 13, 15, 16, 17, 89, 121, 124, 125, 126, 127, 128, 129, 201):
            cache, _, _ = filled_cache(head_dim, CAPACITY)
            for position in range(n_keys + n_queries - 1, CAPACITY):
                remember(cache.head, position, infinity[:head_dim], infinity[:head_dim])
            random = np.random.default_rng(1)
            qkv = random.normal(0, 0.3, (n_queries + 2, head_dim + 9)).astype(np.float32)
            out = np.full((n_queries + 2, head_dim + 7), 99, np.float32)
            attend_several(out, 3, qkv, 1, 5, cache.head, n_keys, scratch)
            queries = qkv[1 : 1 + n_queries, 5 : 5 + head_dim]
            alone = [run(query, cache, n_keys + j) for j, query in enumerate(queries)]
            found = out[1 : 1 + n_queries, 3 : 3 + head_dim]
            assert np.array_equal(found.view(np.uint32), np.array(alone).view(np.uint32))
            found[:] = 99
            assert (out == 99).all()


def test_one_overwhelming_key_takes_all():
    cache, _, value = filled_cache(32, 140)
    query = np.full(32, 10, np.float32)
    for position in (7, 133):
        last = value[position].astype(np.float32)
        remember(cache.head, position, np.full(32, 10 + position, np.float32), last)
        np.testing.assert_allclose(run(query, cache, 140), value[position], rtol=1e-6)


def test_the_cache_rounds_to_fp16():
    cache = Cache(6)
    third = np.full(6, 1 / 3, np.float32)
    remember(cache.head, BLOCK + 17, third, third)
    block = cache.blocks[1].view(np.float16)[PLACE:]
    keys, values = block[: BLOCK * 6].reshape(-1, 6, 16), block[BLOCK * 6 :].reshape(-1, 16)
    assert np.array_equal(keys[1, :, 1], third.astype("f2"))
    assert np.array_equal(values[17, :6], third.astype("f2"))
    assert np.isnan(block).sum() == block.size - 12
