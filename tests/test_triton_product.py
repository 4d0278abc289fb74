"""Triton's kernels against float64, in Triton's interpreter; and compiled for GPUs, not run there.

The interpreter takes a tenth of a second and more for each band of a matrix, so these are small.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.description.formats import BAND, groups_of
from quantize.packed import layout
from quantize.rounding import groups

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, torch and triton", allow_module_level=True)
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from codegen_cli.engine_torch import triton_product as module  # noqa: E402
from codegen_cli.engine_torch.triton_product import programs_read, triton_product  # noqa: E402

FORMATS = ["int8", "int4", "f16"]
UNPACK = {"int8": layout.unpack_int8, "int4": layout.unpack_int4}
DEQUANTIZE = {"int8": groups.dequantize_int8, "int4": groups.dequantize_int4}

BOUND = 4 * 2.0**-24
"""Of the sum of |x * weight|; 1.9 * 2**-24 was the most in 60 products of these shapes."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the interpreter's arrays are small
    yield
    torch.set_num_threads(before)


def random_matrix(format, n_out, n_in, seed=0):
    """Return weights f64 [n_out, n_in], and codes and scales as a payload has them.

    Padding holds what no weight should be; rows 1 to 3 of the first group have the scale 0.
    """
    random = np.random.default_rng(seed)
    shape = n_out, n_in
    payload = random.integers(0, 256, layout.payload_bytes(format, shape)).astype(np.uint8)
    codes = layout.codes_view(format, shape, payload)
    if format == "f16":
        codes[:] = random.normal(0, 0.1, codes.shape)
        codes[:, n_in:] = np.nan
        weights, scales = layout.unpack_f16(payload, shape), None
    else:
        scales = layout.scales_view(format, shape, payload)
        scales[:] = random.lognormal(-4, 2, scales.shape)
        scales[0, 0, 1:4] = 0
        weights = DEQUANTIZE[format](*UNPACK[format](payload, shape))[:, :n_in]
    return weights.astype(np.float64), codes, scales


def product(x, codes, scales, format, n_out):
    scales = None if scales is None else torch.from_numpy(scales)
    return triton_product(x, torch.from_numpy(codes), scales, format, n_out)


def random_x(n, n_in, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(n).normal(0, 1, (n, n_in))).to(dtype)


def assert_product(format, n_out, n_in, x, **how):
    weights, codes, scales = random_matrix(format, n_out, n_in, **how)
    y = product(x, codes, scales, format, n_out)
    assert y.dtype == torch.float32
    values = x.double().numpy()
    error = np.abs(y.numpy() - values @ weights.T)
    assert (error <= BOUND * (np.abs(values) @ np.abs(weights).T)).all()
    return y


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 16])
@pytest.mark.parametrize("format", FORMATS)
def test_products_of_every_number_of_tokens_are_those_of_float64(format, n):
    assert_product(format, 5, 40, random_x(n, 40))


@pytest.mark.parametrize("shape", [(100, 32), (1, 1), (5, 8), (17, 160), (16, 2080)])
@pytest.mark.parametrize("format", FORMATS)
def test_products_of_every_shape_are_those_of_float64(format, shape):
    """2080 columns are more than a program reads at a time."""
    assert_product(format, *shape, random_x(1, shape[1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
def test_x_of_half_the_bits_is_taken_as_it_is(format, dtype):
    assert_product(format, 17, 64, random_x(3, 64, dtype))


@pytest.mark.parametrize("format", FORMATS)
def test_pairs_of_bands_give_what_single_bands_give(format, monkeypatch):
    """A program takes two bands where there are many; the last has one, if their number is odd."""
    monkeypatch.setattr(module, "_MANY_BANDS", 3)
    assert programs_read(format, 1, 48, 96)["BANDS"] == 2
    assert_product(format, 40, 96, random_x(1, 96))


@pytest.mark.parametrize("format", FORMATS)
def test_a_token_gives_the_same_bits_alone_and_among_others(format):
    _, codes, scales = random_matrix(format, 16, 96)
    x = random_x(16, 96)
    together = product(x, codes, scales, format, 16)
    for first, last in [(0, 1), (3, 4), (9, 11), (15, 16), (2, 6)]:
        assert torch.equal(product(x[first:last], codes, scales, format, 16), together[first:last])


@pytest.mark.parametrize("n_out", [16, 8191, 8192, 51200])
def test_the_order_of_sums_does_not_depend_on_the_number_of_tokens(n_out):
    """On a GPU it follows from these two."""
    for format in FORMATS:
        orders = {
            (read["GROUPS"], read["num_warps"])
            for read in (programs_read(format, n, n_out, 1024) for n in range(1, 17))
        }
        assert len(orders) == 1


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_every_code_in_every_place_is_exact(format):
    """A row of a unit matrix as x takes one column: the weight itself, rounded once."""
    weights, codes, scales = random_matrix(format, 16, 32, seed=5)
    for first in (0, 16):
        y = product(torch.eye(32)[first : first + 16], codes, scales, format, 16)
        assert np.array_equal(y.numpy().T, weights[:, first : first + 16].astype(np.float32))


@pytest.mark.filterwarnings("ignore:invalid value")  # of NumPy, which the interpreter uses
@pytest.mark.parametrize("format", FORMATS)
def test_a_value_that_is_not_finite_stays_with_its_token(format):
    _, codes, scales = random_matrix(format, 16, 40)
    x = random_x(3, 40)
    x[1, 7] = np.inf
    y = product(x, codes, scales, format, 16)
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


def test_rows_of_x_need_not_lie_side_by_side():
    assert_product("int4", 16, 32, random_x(2, 64)[:, 16:48])


@settings(max_examples=8)
@given(
    format=st.sampled_from(FORMATS),
    n_out=st.integers(1, 2 * BAND),
    n_in=st.integers(1, 300),
    n=st.integers(1, 16),
    seed=st.integers(0, 9),
)
def test_products_of_any_shape_are_those_of_float64(format, n_out, n_in, n, seed):
    assert_product(format, n_out, n_in, random_x(n, n_in), seed=seed)


@pytest.mark.parametrize("n", [0, 17])
def test_too_many_tokens_are_refused(n):
    _, codes, scales = random_matrix("int8", 16, 32)
    with pytest.raises(ValueError, match=f"^{n} tokens in one product, need 1 to 16$"):
        product(torch.zeros(n, 32), codes, scales, "int8", 16)


def test_the_padding_of_these_matrices_is_odd():
    """As of the shapes above: else the tests would hold without a mask."""
    assert groups_of(40) * 32 > 40
    _, codes, _ = random_matrix("int8", 17, 40)
    assert len(np.unique(codes[:, 10:])) > 50


@pytest.mark.parametrize(
    ("arch", "format", "n", "n_out", "wide_loads"),
    [
        ("80", "int4", 1, 2560, 4),
        ("90", "int4", 1, 2560, 4),
        ("gfx942", "int4", 1, 2560, 4),
        ("90", "int4", 1, 10240, 8),  # in pairs of bands
        ("90", "int4", 8, 2560, 1),  # has arithmetic enough to do meanwhile
        ("90", "int8", 1, 2560, 8),
        ("90", "f16", 1, 2560, 4),
    ],
)
def test_kernels_compile_for_gpus_with_wide_loads_and_no_spills(
    arch, format, n, n_out, wide_loads, tmp_path
):
    """Each lane asks for 16 bytes of codes at a time, and for all of a group before it waits.

    Barriers are of the final sums, up to five a token: there is none within the loop.
    """
    script = Path(__file__).parent / "compiled_product.py"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    del environment["TRITON_INTERPRET"]
    run = subprocess.run(
        [sys.executable, script, arch, format, str(n), str(n_out)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    facts = json.loads(run.stdout)
    assert facts["spilled"] == 0
    assert facts["wide_loads"] >= wide_loads
    assert facts["barriers"] <= 5 * n
