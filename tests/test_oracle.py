"""The float64 oracle agrees with the logits that transformers computed in float32."""

import numpy as np
import pytest
from golden import GOLDEN_NAMES, read_golden
from oracle import ACTIVATIONS, n_shards, oracle_logits, round_to_int8, twin_logits

# Largest difference in spreads of the logits. Measured: 2.5e-6, float32's own rounding.
ORACLE_TOLERANCE = 1e-5


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_oracle_equals_transformers(name: str) -> None:
    golden = read_golden(name)
    logits = oracle_logits(golden.config, golden.tensors, golden.ids)
    assert golden.largest_difference(logits) < ORACLE_TOLERANCE


def test_goldens_cover_the_shapes_that_kernels_treat_differently() -> None:
    configs = [read_golden(name).config for name in GOLDEN_NAMES]
    head_dims = {config["n_embd"] // config["n_head"] for config in configs}
    rotates_all = {
        config["rotary_dim"] == config["n_embd"] // config["n_head"] for config in configs
    }
    assert head_dims >= {32, 64, 80, 256}
    assert rotates_all == {True, False}
    assert {config["tie_word_embeddings"] for config in configs} == {True, False}
    assert any(config["vocab_size"] % 16 for config in configs)
    assert any((config["n_inner"] or 0) % 32 for config in configs)
    assert {config["activation_function"] for config in configs} == set(ACTIVATIONS)
    assert {n_shards(config) for config in configs if config["model_type"] == "codegen"} == {4, 8}
    assert {config["n_head"] % 4 == 0 for config in configs if config["model_type"] == "gptj"} == {
        True,
        False,
    }


def test_every_tensor_of_a_golden_moves_its_logits() -> None:
    """A tensor that did not matter could be forgotten without a test noticing."""
    golden = read_golden("layer_norm_epsilon_0_01")
    ids = golden.ids[:8]
    expected = oracle_logits(golden.config, golden.tensors, ids)
    for name, values in golden.tensors.items():
        without = golden.tensors | {name: np.full_like(values, values.mean())}
        moved = np.abs(oracle_logits(golden.config, without, ids) - expected).max()
        assert moved > 0.05 * golden.spread, name


def test_layer_norm_epsilon_moves_the_logits() -> None:
    golden = read_golden("layer_norm_epsilon_0_01")
    config = golden.config | {"layer_norm_epsilon": 1e-5}
    logits = oracle_logits(config, golden.tensors, golden.ids)
    assert golden.largest_difference(logits) > 0.005


def test_a_position_ignores_later_ids() -> None:
    golden = read_golden("head_dim_80_rotary_80")
    whole = oracle_logits(golden.config, golden.tensors, golden.ids)
    start = oracle_logits(golden.config, golden.tensors, golden.ids[:20])
    np.testing.assert_allclose(whole[:20], start, rtol=0, atol=1e-10)


def test_activation_codes_round_halves_to_even() -> None:
    x = np.zeros((1, 32))
    x[0, :5] = [127.0, 0.5, 1.5, -2.5, -127.0]  # the scale is 1: values are codes
    assert round_to_int8(x)[0, :5].tolist() == [127.0, 0.0, 2.0, -2.0, -127.0]


def test_activation_groups_have_scales_of_their_own() -> None:
    x = np.concatenate([np.full((1, 32), 1e-3), np.full((1, 8), 1e3)], axis=1)  # 8 fill no group
    np.testing.assert_allclose(round_to_int8(x), x, rtol=1e-6)


def test_zero_and_vanishing_activation_groups_become_zero() -> None:
    x = np.concatenate([np.zeros((1, 32)), np.full((1, 32), 2.0**-101)], axis=1)
    assert not round_to_int8(x).any()


def test_twin_stays_near_the_oracle_but_differs() -> None:
    """Measured: int8 activations and fp16 keys and values move logits by 0.047 spreads at most."""
    golden = read_golden("head_dim_80_rotary_64")
    difference = golden.largest_difference(twin_logits(golden.config, golden.tensors, golden.ids))
    assert 0.01 < difference < 0.08
