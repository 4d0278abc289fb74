"""The formats' definition: what rounding may lose, and the ends of fp16's range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.description.formats import GROUP
from quantize.rounding.groups import (
    F16_MAX,
    dequantize_f16,
    dequantize_int4,
    dequantize_int8,
    int4_levels,
    int4_zeros,
    quantize_activations,
    quantize_f16,
    quantize_int4,
    quantize_int8,
    round_to_absmax_int4,
    split_groups,
)

SHAPES = [(1, 1), (1, 32), (3, 31), (16, 64), (17, 33), (40, 100)]


def normal_weights(shape, spread=0.05, seed=1):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32) * np.float32(
        spread
    )


def half_steps(weights, scales):
    """Half a scale for each weight, [n_out, n_in] f32."""
    halves = np.abs(scales.astype(np.float32)).repeat(GROUP, axis=1) / 2
    return halves[:, : weights.shape[1]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [2.0**-26, 2.0**-20, 1e-4, 0.05, 1000.0])
def test_int8_moves_no_weight_by_more_than_half_a_scale(shape, spread):
    weights = normal_weights(shape, spread)
    codes, scales = quantize_int8(weights)
    restored = dequantize_int8(codes, scales)[:, : shape[1]]
    assert codes.shape == (*scales.shape, GROUP)
    assert np.abs(codes.astype(int)).max() <= 127
    # One part in 2**20 more than half: the quotient is rounded to f32 before it becomes a code.
    assert np.all(np.abs(restored - weights) <= half_steps(weights, scales) * (1 + 2**-20))


def test_int8_reaches_the_largest_magnitude_of_each_group():
    codes, _ = quantize_int8(normal_weights((40, 100)))
    assert np.all(np.abs(codes.astype(int)).max(axis=2) == 127)


def test_int8_scale_is_the_fp16_nearest_a_127th_of_the_largest_magnitude():
    weights = normal_weights((8, 64))
    _, scales = quantize_int8(weights)
    absmax = np.abs(weights.reshape(8, 2, GROUP)).max(axis=2)
    assert scales.dtype == np.float16
    assert np.array_equal(scales, (absmax / np.float32(127)).astype(np.float16))


def test_int8_codes_fit_the_rounded_scale_and_not_the_exact_one():
    weights = normal_weights((64, 256))
    codes, scales = quantize_int8(weights)
    groups = weights.reshape(64, 8, GROUP)
    assert np.array_equal(codes, np.rint(groups / scales.astype(np.float32)[:, :, None]))
    exact = np.abs(groups).max(axis=2) / np.float32(127)
    assert not np.array_equal(codes, np.rint(groups / exact[:, :, None]))


def test_int8_rounds_halves_to_even_codes():
    weights = np.zeros((1, GROUP), np.float32)
    weights[0, :6] = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5]) * 2.0**-4
    codes, scales = quantize_int8(weights)
    assert scales[0, 0] == 2.0**-4
    assert codes[0, 0, :6].tolist() == [127, 0, 2, 2, 0, -2]


def test_int8_subnormal_scale_is_rounded_up_when_127_would_not_reach():
    absmax = np.float32(127 * 1.4 * 2**-24)  # the nearest fp16 to a 127th is 2**-24: code 178
    codes, scales = quantize_int8(np.full((1, GROUP), absmax))
    assert scales[0, 0] == np.float16(2 * 2**-24)
    assert np.all(codes == np.rint(absmax / 2**-23))


@pytest.mark.parametrize("value", [2.0**-24, 127 * 2.0**-24, F16_MAX, -F16_MAX])
def test_int8_keeps_the_ends_of_the_fp16_range(value):
    weights = np.zeros((1, GROUP), np.float32)
    weights[0, 5] = value
    codes, scales = quantize_int8(weights)
    assert np.isfinite(scales).all()
    assert dequantize_int8(codes, scales)[0, 5] == pytest.approx(value, rel=2**-11)


def test_int8_weights_below_half_the_smallest_fp16_become_zero():
    codes, scales = quantize_int8(np.full((1, GROUP), np.float32(2.0**-26)))
    assert scales[0, 0] == np.float16(2**-24)
    assert not codes.any()


def scales_with_zero(scales, zero):
    """The fp16 scales near these whose lowest 5 bits name the zero point, 14..45 quarter steps."""
    pattern = np.asarray(scales, np.float16).view(np.uint16)
    return (pattern & ~np.uint16(31) | np.uint16(zero - 14)).view(np.float16)


def test_int8_all_zero_group_has_scale_zero_and_codes_zero():
    weights = normal_weights((2, 96))
    weights[1, 32:64] = 0
    codes, scales = quantize_int8(weights)
    assert scales[1, 1] == 0
    assert not codes[1, 1].any()
    assert np.count_nonzero(scales) == 5


@pytest.mark.parametrize(
    ("pattern", "zero"), [(0x0000, 14), (0x001F, 45), (0x2C00, 14), (0x2C10, 30), (0x7BFF, 45)]
)
def test_int4_zero_point_is_14_plus_the_lowest_5_bits_of_the_scale(pattern, zero):
    scales = np.array([[pattern]], np.uint16).view(np.float16)
    assert int4_zeros(scales).tolist() == [[zero]]


def test_int4_weight_is_four_codes_less_the_zero_point_times_the_scale():
    codes = np.arange(GROUP, dtype=np.uint8).reshape(1, 1, GROUP) % 16
    scales = scales_with_zero([[0.01]], 31)
    levels = 4 * np.arange(16) - 31
    assert int4_levels(codes, scales).reshape(2, 16).tolist() == [levels.tolist()] * 2
    restored = dequantize_int4(codes, scales)
    assert np.array_equal(restored[0, :16], levels.astype(np.float32) * np.float32(scales[0, 0]))


@pytest.mark.parametrize("zero", [14, 29, 30, 45])
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_takes_the_nearest_of_its_16_levels(shape, zero):
    weights = normal_weights(shape)
    n_groups = -(-shape[1] // GROUP)
    scales = scales_with_zero(np.full((shape[0], n_groups), 0.004), zero)
    restored = dequantize_int4(quantize_int4(weights, scales), scales)[:, : shape[1]]
    levels = (4 * np.arange(16) - zero) * np.float32(scales[0, 0])
    nearest = np.abs(weights[:, :, None] - levels).min(axis=2)
    assert np.allclose(np.abs(restored - weights), nearest, rtol=0, atol=1e-7)


def test_int4_rounds_halves_to_even_codes():
    scales = scales_with_zero([[2.0**-4]], 30)
    step = 4 * np.float32(scales[0, 0])
    weights = np.zeros((1, GROUP), np.float32)
    weights[0, :4] = np.array([-7, -6, 0, 1]) * step  # codes 0.5, 1.5, 7.5, 8.5
    assert quantize_int4(weights, scales)[0, 0, :4].tolist() == [0, 2, 8, 8]


def test_int4_clips_what_lies_beyond_its_levels():
    weights = np.zeros((1, GROUP), np.float32)
    weights[0, :2] = [1.0, -1.0]
    codes = quantize_int4(weights, scales_with_zero([[0.01]], 30))
    assert codes[0, 0, :2].tolist() == [15, 0]


def test_int4_scale_zero_means_weight_zero():
    scales = np.zeros((1, 1), np.float16)
    codes = quantize_int4(np.ones((1, GROUP), np.float32), scales)
    assert not dequantize_int4(codes, scales).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_rounding_moves_no_weight_by_more_than_a_14th_of_the_largest(shape):
    weights = normal_weights(shape)
    rounded = round_to_absmax_int4(weights)
    absmax = np.abs(split_groups(weights)).max(axis=2).repeat(GROUP, axis=1)[:, : shape[1]]
    # 2**-9: the scale is rounded to fp16, and 7 of its rounding errors reach the largest weight.
    assert np.all(np.abs(rounded - weights) <= absmax / 14 * (1 + 2**-9))
    assert max(len(np.unique(row[:GROUP])) for row in rounded) <= 15


def test_columns_are_padded_with_zeros():
    groups = split_groups(np.ones((2, 33), np.float32))
    assert groups.shape == (2, 2, GROUP)
    assert groups.sum() == 66


def test_every_fp16_survives_f16():
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = values[np.isfinite(values)].reshape(2, -1)
    assert np.array_equal(quantize_f16(dequantize_f16(finite)), finite)


def test_activation_codes_round_half_to_even():
    x = np.zeros(GROUP, np.float32)
    x[:6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    codes, scales, sums = quantize_activations(x)
    assert codes[:6].tolist() == [127, 0, 2, 2, 0, -2]
    assert scales.tolist() == [1.0]
    assert sums.tolist() == [129]


def test_activations_are_multiplied_by_the_rounded_factor_and_not_divided():
    # Near a half the two differ by a code; x = n + 0.5 times a scale makes that common.
    amax = np.random.RandomState(3).uniform(0.5, 2, (4096, 1)).astype(np.float32)
    halves = np.arange(GROUP, dtype=np.float32) + np.float32(0.5)
    x = halves * (amax / np.float32(127))
    x[:, 31:] = amax
    codes, scales, _ = quantize_activations(x)
    assert np.array_equal(codes, np.rint(x * (np.float32(127) / amax)))
    assert not np.array_equal(codes, np.rint(x / scales))


@pytest.mark.parametrize(
    ("amax", "is_zero"),
    [
        (0.0, True),
        (2.0**-149, True),
        (float(np.nextafter(np.float32(2.0**-100), np.float32(0))), True),
        (2.0**-100, False),
        (float(np.finfo(np.float32).max), False),
    ],
)
def test_activation_group_below_two_to_the_minus_100_is_zero(amax, is_zero):
    x = np.zeros((2, 2 * GROUP), np.float32)
    x[1, GROUP] = -amax
    codes, scales, sums = quantize_activations(x)
    assert codes[1, GROUP] == (0 if is_zero else -127)
    assert (scales[1, 1] == 0) == is_zero
    assert sums.tolist() == [[0, 0], [0, 0 if is_zero else -127]]


@given(st.integers(0, 2**32 - 1), st.integers(-60, 60))
def test_activations_are_restored_within_half_a_scale(seed, exponent):
    x = np.random.RandomState(seed).standard_normal((3, 64)).astype(np.float32)
    x *= np.float32(2.0**exponent)
    codes, scales, sums = quantize_activations(x)
    assert (codes.dtype, scales.dtype, sums.dtype) == (np.int8, np.float32, np.int32)
    assert scales.shape == sums.shape == (3, 2)
    steps = scales.repeat(GROUP, axis=1)
    assert np.all(np.abs(codes * steps - x) <= steps * 0.50002)
    assert np.array_equal(sums, codes.reshape(3, 2, GROUP).astype(int).sum(axis=2))
