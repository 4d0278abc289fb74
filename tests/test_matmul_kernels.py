"""Matrix product kernels against NumPy: exact integer sums, then floats within 4 ulp a group."""

import numpy as np
import pytest

from codegen_cli.kernels.matmul import (
    in_blocks,
    int4_block,
    int8_block,
    matmul_f16,
    matmul_int4,
    matmul_int8,
)
from codegen_cli.kernels.step_arrays import Activations
from quantize.description.formats import round_up
from quantize.packed import layout
from quantize.rounding import groups

KERNELS = {"int8": matmul_int8, "int4": matmul_int4}
BLOCKS_OF = {"int8": int8_block, "int4": int4_block}
PACKERS = {"int8": layout.pack_int8, "int4": layout.pack_int4}
CODE_RANGES = {"int8": (-127, 127), "int4": (0, 15)}
CODE_TYPES = {"int8": np.int8, "int4": np.uint8}


def run_kernel(format, codes, scales, x_codes, x_scales, start=None, kernel=None):
    """out [n_tokens, n_out] f32 of the kernel; codes [n_out, n_groups, 32], x [n_tokens, ...]."""
    n_out, n_groups, _ = codes.shape
    n_tokens = len(x_codes)
    shape = (n_out, n_groups * 32)
    payload = PACKERS[format](codes, scales)
    split = layout.codes_bytes(format, shape)
    out = np.zeros((n_tokens, round_up(n_out, 16)), np.float32)
    if start is not None:
        out[:, :n_out] = start
    x = Activations(
        np.zeros((n_tokens, shape[1]), np.float32),
        np.ascontiguousarray(x_codes.transpose(1, 0, 2)).reshape(n_groups, -1),
        np.ascontiguousarray(x_scales.T),
        np.ascontiguousarray(x_codes.sum(-1).T.astype(np.float32)),
    )
    packed = payload[:split], payload[split:].view(np.uint16)
    kernel = kernel or KERNELS[format]
    kernel(out, 0, out.shape[1] // 16, *packed, x, start is not None)
    return out


def random_case(format, n_out=50, n_groups=5, n_tokens=3, seed=0):
    random = np.random.default_rng(seed)
    low, high = CODE_RANGES[format]
    codes = random.integers(low, high + 1, (n_out, n_groups, 32)).astype(CODE_TYPES[format])
    scales = np.abs(random.normal(0, 0.01, (n_out, n_groups))).astype(np.float16)
    x_codes = random.integers(-127, 128, (n_tokens, n_groups, 32)).astype(np.int8)
    x_scales = random.uniform(0.001, 1, (n_tokens, n_groups)).astype(np.float32)
    return codes, scales, x_codes, x_scales


def group_sums(format, codes, scales, x_codes):
    """[n_tokens, n_out, n_groups] int64."""
    levels = codes if format == "int8" else groups.int4_levels(codes, scales)
    return np.einsum("ogi,tgi->tog", levels.astype(np.int64), x_codes.astype(np.int64))


@pytest.mark.parametrize("format", KERNELS)
def test_integer_sums_are_exact(format):
    codes, _, x_codes, _ = random_case(format, n_groups=1)
    ones = np.ones((len(codes), 1), np.float16), np.ones((len(x_codes), 1), np.float32)
    out = run_kernel(format, codes, ones[0], x_codes, ones[1])
    assert np.array_equal(
        out[:, : len(codes)], group_sums(format, codes, ones[0], x_codes)[:, :, 0]
    )


@pytest.mark.parametrize("format", KERNELS)
def test_extreme_codes_do_not_saturate(format):
    for code in CODE_RANGES[format]:
        for x_code in (-127, 127):
            codes = np.full((16, 1, 32), code, CODE_TYPES[format])
            x_codes = np.full((1, 1, 32), x_code, np.int8)
            ones = np.ones((16, 1), np.float16), np.ones((1, 1), np.float32)
            out = run_kernel(format, codes, ones[0], x_codes, ones[1])
            assert (out == group_sums(format, codes, ones[0], x_codes)[:, :, 0]).all()


@pytest.mark.parametrize("n_tokens", [1, 3])
@pytest.mark.parametrize("format", KERNELS)
def test_floats_are_within_4_ulp_of_each_group_sum(format, n_tokens):
    codes, scales, x_codes, x_scales = random_case(format, n_tokens=n_tokens)
    terms = (
        group_sums(format, codes, scales, x_codes)
        * scales.astype(np.float64)
        * x_scales[:, None, :]
    )
    bound = 4 * np.spacing(np.abs(terms).sum(-1).astype(np.float32))
    out = run_kernel(format, codes, scales, x_codes, x_scales)[:, : len(codes)]
    assert (np.abs(out - terms.sum(-1)) <= bound).all()


@pytest.mark.parametrize("format", KERNELS)
def test_padded_rows_are_exactly_zero(format):
    codes, scales, x_codes, x_scales = random_case(format, n_out=50)
    out = run_kernel(format, codes, scales, x_codes, x_scales)
    assert out.shape[1] == 64
    assert (out[:, 50:] == 0).all()


@pytest.mark.parametrize("n_tokens", [1, 3])
@pytest.mark.parametrize("format", KERNELS)
def test_accumulating_adds_to_what_is_there(format, n_tokens):
    codes, scales, x_codes, x_scales = random_case(format, n_groups=1, n_tokens=n_tokens)
    start = np.float32(1000)
    out = run_kernel(format, codes, scales, x_codes, x_scales, start=start)[:, : len(codes)]
    alone = run_kernel(format, codes, scales, x_codes, x_scales)[:, : len(codes)]
    np.testing.assert_allclose(out, start + alone, rtol=2e-7)


@pytest.mark.parametrize("format", KERNELS)
def test_a_token_gives_the_same_bits_alone_and_among_others(format):
    codes, scales, x_codes, x_scales = random_case(format, n_tokens=9)
    together = run_kernel(format, codes, scales, x_codes, x_scales)
    for token in range(9):
        one = slice(token, token + 1)
        alone = run_kernel(format, codes, scales, x_codes[one], x_scales[one])
        assert np.array_equal(alone[0], together[token])


@pytest.mark.parametrize("shape", [(2, 3), (2, 4)])
@pytest.mark.parametrize("format", KERNELS)
def test_blocks_of_every_shape_give_the_same_bits(format, shape):
    """As of a path that this CPU cannot run."""
    kernel = in_blocks(BLOCKS_OF[format], *shape)
    for n_out in (16, 50):
        codes, scales, x_codes, x_scales = random_case(format, n_out, n_tokens=9)
        for n_tokens in (1, 2, 3, 4, 5, 6, 7, 9):
            case = codes, scales, x_codes[:n_tokens], x_scales[:n_tokens]
            for start in (None, np.float32(3)):
                expected = run_kernel(format, *case, start=start)
                found = run_kernel(format, *case, start=start, kernel=kernel)
                assert np.array_equal(found, expected)


def test_f16_product_is_a_float32_sum_in_column_order():
    random = np.random.default_rng(1)
    weights = random.normal(0, 0.1, (50, 70)).astype(np.float16)
    values = np.zeros((9, 96), np.float32)
    values[:, :70] = random.normal(0, 1, (9, 70))
    expected = np.zeros((9, 50), np.float64)
    for column in range(70):
        # A float64 product of these is exact; rounding each sum to float32 is what fma does.
        product = weights[:, column].astype(np.float64) * values[:, column : column + 1]
        expected = (expected + product).astype(np.float32).astype(np.float64)
    packed = layout.pack_f16(weights).view(np.uint16)
    for n_tokens in (1, 2, 3, 9):
        empty = [np.zeros((3, n_tokens * n), dtype) for n, dtype in ((32, "i1"), (1, "f4"))]
        x = Activations(np.ascontiguousarray(values[:n_tokens]), *empty, empty[1])
        out = np.zeros((n_tokens, 64), np.float32)
        matmul_f16(out, 0, 4, packed, packed, x, False)
        assert np.array_equal(out[:, :50], expected[:n_tokens])


def test_quantized_product_is_near_the_unquantized_one():
    random = np.random.default_rng(2)
    weights = random.normal(0, 0.1, (48, 128)).astype(np.float32)
    x = random.normal(0, 1, (2, 128)).astype(np.float32)
    x_codes, x_scales, _ = groups.quantize_activations(x)
    codes, scales = groups.quantize_int8(weights)
    out = run_kernel("int8", codes, scales, x_codes.reshape(2, 4, 32), x_scales)
    exact = x @ weights.T
    assert np.abs(out - exact).max() < 0.05 * exact.std()
