"""Attention of queries over the fp16 cache against float64."""

import numpy as np
import pytest

from codegen_cli.kernels.attention import AttentionScratch, attend, attention_of, remember

CAPACITY = 96


def new_cache(head_dim):
    keys = np.zeros(CAPACITY * head_dim, np.uint16)
    values = np.zeros(-(-head_dim // 16) * CAPACITY * 16, np.uint16)
    return keys, values


def filled_cache(head_dim, n_keys, seed=0):
    """A cache of n_keys random positions, with the fp16 values that it holds."""
    random = np.random.default_rng(seed)
    keys, values = new_cache(head_dim)
    key = random.normal(0, 1, (n_keys, head_dim)).astype(np.float16)
    value = random.normal(0, 1, (n_keys, head_dim)).astype(np.float16)
    for position in range(n_keys):
        remember(
            keys,
            values,
            position,
            key[position].astype(np.float32),
            value[position].astype(np.float32),
        )
    return keys, values, key.astype(np.float64), value.astype(np.float64)


def run(query, keys, values, n_keys):
    out = np.empty(len(query), np.float32)
    attend(out, query, keys, values, n_keys, np.full(CAPACITY + 16, 99, np.float32))
    return out


@pytest.mark.parametrize("head_dim", [6, 32, 80, 256])
@pytest.mark.parametrize("n_keys", [1, 2, 3, 15, 16, 17, 95, 96])
def test_attention_matches_float64(head_dim, n_keys):
    keys, values, key, value = filled_cache(head_dim, n_keys)
    query = np.random.default_rng(1).normal(0, 0.3, head_dim).astype(np.float32)
    scores = key @ query
    weights = np.exp(scores - scores.max())
    expected = weights @ value / weights.sum()
    np.testing.assert_allclose(run(query, keys, values, n_keys), expected, rtol=1e-5, atol=1e-5)


def test_later_positions_do_not_matter():
    keys, values, _, _ = filled_cache(32, 40)
    query = np.random.default_rng(1).normal(0, 0.3, 32).astype(np.float32)
    before = run(query, keys, values, 21)
    infinity = np.full(32, np.inf, np.float32)
    for position in range(21, 40):
        remember(keys, values, position, infinity, infinity)
    assert np.array_equal(run(query, keys, values, 21), before)


@pytest.mark.parametrize("n_queries", [4, 8])  # as the kernel paths take them
def test_queries_together_give_what_each_gives_alone(n_queries):
    attend_several = attention_of(n_queries)
    scratch = AttentionScratch(
        np.full((n_queries, CAPACITY + 16), 99, np.float32),
        np.full((4 * n_queries, 16), 99, np.float32),
        np.full(16, 99, np.float32),
    )
    infinity = np.full(256, np.inf, np.float32)
    for head_dim in (6, 32, 80, 256):
        for n_keys in (1, 2, 3, 4, 12, 13, 14, 15, 16, 17, 89):
            keys, values, _, _ = filled_cache(head_dim, CAPACITY)
            for position in range(n_keys + n_queries - 1, CAPACITY):
                remember(keys, values, position, infinity[:head_dim], infinity[:head_dim])
            random = np.random.default_rng(1)
            qkv = random.normal(0, 0.3, (n_queries + 2, head_dim + 9)).astype(np.float32)
            out = np.full((n_queries + 2, head_dim + 7), 99, np.float32)
            attend_several(out, 3, qkv, 1, 5, head_dim, keys, values, n_keys, scratch)
            queries = qkv[1 : 1 + n_queries, 5 : 5 + head_dim]
            alone = [run(query, keys, values, n_keys + j) for j, query in enumerate(queries)]
            found = out[1 : 1 + n_queries, 3 : 3 + head_dim]
            assert np.array_equal(found.view(np.uint32), np.array(alone).view(np.uint32))
            found[:] = 99
            assert (out == 99).all()


def test_one_overwhelming_key_takes_all():
    keys, values, _, value = filled_cache(32, 40)
    query = np.full(32, 10, np.float32)
    remember(keys, values, 7, np.full(32, 10, np.float32), value[7].astype(np.float32))
    np.testing.assert_allclose(run(query, keys, values, 40), value[7], rtol=1e-6)


def test_the_cache_rounds_to_fp16():
    keys, values = new_cache(6)
    third = np.full(6, 1 / 3, np.float32)
    remember(keys, values, 17, third, third)
    assert np.array_equal(keys.view(np.float16).reshape(-1, 6, 16)[1, :, 1], third.astype("f2"))
    assert np.array_equal(values.view(np.float16).reshape(-1, 16)[17, :6], third.astype("f2"))
