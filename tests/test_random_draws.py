"""Draws depend on seed, sample and position alone, and stay what they are."""

from itertools import product

import numpy as np
import pytest

from codegen_cli.decoding.random_draws import fresh_seed, uniform

LARGEST = 2**64 - 1

STORED = {
    (0, 0, 0): 0.08723912359911234,
    (1, 0, 0): 0.794901327418393,
    (0, 1, 0): 0.9077098948652647,
    (0, 0, 1): 0.011546754286331562,
    (42, 3, 2047): 0.6010477438426827,
    (LARGEST, 0, 5): 0.0584047863326409,
}


@pytest.mark.parametrize(("key", "draw"), STORED.items())
def test_stored_draws_stay_the_same(key, draw):
    assert uniform(*key) == draw


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32, 2**63 + 12345, LARGEST])
@pytest.mark.parametrize("sample", [0, 1, LARGEST])
@pytest.mark.parametrize("position", [1, 7, 2047, LARGEST])
def test_draws_are_those_of_numpys_philox(seed, sample, position):
    # NumPy adds 1 to the counter before its first block.
    key = np.array([seed, 0], np.uint64)
    counter = np.array([position - 1, sample, 0, 0], np.uint64)
    twin = np.random.Philox(key=key, counter=counter)
    assert uniform(seed, sample, position) == np.random.Generator(twin).random()


def test_the_order_of_calls_makes_no_difference():
    keys = list(product([3, 4], [0, 1], range(5)))
    forward = {key: uniform(*key) for key in keys}
    assert {key: uniform(*key) for key in reversed(keys)} == forward


def test_seed_sample_and_position_each_change_the_draw():
    draws = {uniform(*key) for key in product([0, 1, 2, LARGEST], repeat=3)}
    assert len(draws) == 4**3


@pytest.mark.parametrize("moving", [0, 1, 2], ids=["seed", "sample", "position"])
def test_draws_are_uniform_along_each_key(moving):
    key = [5, 5, 5]
    draws = []
    for key[moving] in range(4000):
        draws.append(uniform(*key))
    assert min(draws) >= 0
    assert max(draws) < 1
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    # 400 each; the standard deviation of a count is 19.
    assert np.abs(counts - 400).max() < 95
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.08


def test_fresh_seeds_differ_and_are_exact_in_json():
    seeds = {fresh_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**32 for seed in seeds)
