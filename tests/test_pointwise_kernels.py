"""Norm, rotary, embedding and activation quantization against float64 or exact twins."""

import numpy as np
import pytest
from numba import njit

from codegen_cli.kernels import pointwise
from codegen_cli.kernels.vectors import load_f32, store_f32
from quantize.description.formats import round_up
from quantize.packed import layout
from quantize.rounding import groups


@njit
def exp_each(out, x):
    for i in range(0, len(x), 16):
        store_f32(out, i, pointwise.exp(load_f32(x, i)))


def test_exp_is_within_2_ulp():
    x = np.linspace(-87, 88, 16 * 5000, dtype=np.float32)
    out = np.empty_like(x)
    exp_each(out, x)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(out - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()


@pytest.mark.parametrize("n", [24, 32, 80, 1000])
def test_layer_norm_matches_float64_and_zeroes_its_padding(n):
    random = np.random.default_rng(n)
    x = random.normal(3, 2, n)
    weight, bias = random.normal(1, 0.1, n), random.normal(0, 0.1, n)
    padded = round_up(n, 32)

    def pad(values):
        # What lies behind the n values must not matter.
        return np.concatenate([values, np.full(padded - n, 7.0)]).astype(np.float32)

    out = np.full(padded, 9, np.float32)
    pointwise.layer_norm(out, pad(x), pad(weight), pad(bias), n, np.float32(1e-5))
    exact = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias
    np.testing.assert_allclose(out[:n], exact, rtol=1e-5, atol=1e-5)
    assert (out[n:] == 0).all()


def test_rotate_turns_pairs_and_leaves_the_rest():
    random = np.random.default_rng(0)
    x = random.normal(0, 1, 10).astype(np.float32)
    angles = np.array([0.3, 1.2, 2.5])
    expected = x.astype(np.float64)
    pairs = (expected[0:6:2] + 1j * expected[1:6:2]) * np.exp(1j * angles)
    expected[0:6:2], expected[1:6:2] = pairs.real, pairs.imag
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    pointwise.rotate(x, cosines, sines)
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6)


def quantize_row(x):
    """x [n] -> codes, scales, sums of its groups by the kernel, [n_groups, ...]."""
    n_groups = len(x) // 32
    codes = np.full((n_groups, 32), 99, np.int8)
    scales, sums = (np.full((n_groups, 1), 99, np.float32) for _ in range(2))
    for group in range(n_groups):
        pointwise.quantize_group(x, group * 32, codes[group], scales[group], sums[group], 0)
    return codes, scales[:, 0], sums[:, 0]


def test_quantized_activations_equal_their_definition():
    random = np.random.default_rng(0)
    x = (random.normal(0, 1, 32 * 200) * np.exp2(random.integers(-90, 90, 200).repeat(32))).astype(
        np.float32
    )
    x[:32] = 0
    x[32:64] = 1e-35  # below the smallest group
    x[64:96] = np.arange(32) - 15.5  # ties, once scaled by 127 / 127
    x[64] = 127
    codes, scales, sums = quantize_row(x)
    twin_codes, twin_scales, twin_sums = groups.quantize_activations(x)
    assert np.array_equal(codes.reshape(-1), twin_codes.reshape(-1))
    assert np.array_equal(scales, twin_scales.reshape(-1))
    assert np.array_equal(sums, twin_sums.reshape(-1))
    assert (scales[:2] == 0).all()


def test_embedding_rows_are_the_dequantized_rows():
    random = np.random.default_rng(0)
    weights = random.normal(0, 1, (37, 70)).astype(np.float32)
    codes, scales = groups.quantize_int8(weights)
    payload = layout.pack_int8(codes, scales)
    split = layout.codes_bytes("int8", (37, 70))
    halves = layout.pack_f16(weights.astype(np.float16)).view(np.uint16)
    for token_id in (0, 15, 16, 36):
        out = np.empty(96, np.float32)
        pointwise.embed_int8(out, token_id, payload[:split], payload[split:].view(np.uint16))
        expected = codes[token_id].astype(np.float32) * scales[token_id, :, None]
        assert np.array_equal(out, expected.reshape(-1))
        pointwise.embed_f16(out, token_id, halves)
        assert np.array_equal(out[:70], weights[token_id].astype(np.float16))
        assert (out[70:] == 0).all()
