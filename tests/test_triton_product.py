"""Triton's kernels against float64, in Triton's interpreter; and compiled for GPUs, not run there.

    TRITON_INTERPRET=1 pytest -n0 tests/test_triton_product.py

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

from quantize.description.formats import BAND
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
"""Of the sum of |x * weight|; 2.02 * 2**-24 was the most in products of these shapes."""


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
def test_products_of_many_bands_are_those_of_float64(format, monkeypatch):
    """They are as many as fill a GPU, and then the programs are smaller."""
    few = programs_read(format, 1, 17, 1056)
    monkeypatch.setattr(module, "_MANY_BANDS", 2)
    assert programs_read(format, 1, 17, 1056) != few
    assert_product(format, 17, 1056, random_x(1, 1056))


@pytest.mark.parametrize("format", FORMATS)
def test_a_token_gives_the_same_bits_alone_and_among_others(format):
    _, codes, scales = random_matrix(format, 16, 96)
    x = random_x(16, 96)
    together = product(x, codes, scales, format, 16)
    for first, last in [(0, 1), (3, 4), (9, 11), (15, 16), (2, 6)]:
        assert torch.equal(product(x[first:last], codes, scales, format, 16), together[first:last])


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


def compiled(tmp_path, *arguments):
    script = Path(__file__).parent / "compiled_product.py"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    del environment["TRITON_INTERPRET"]
    command = [sys.executable, script, *map(str, arguments)]
    return json.loads(
        subprocess.run(command, capture_output=True, env=environment, check=True).stdout
    )


@pytest.mark.parametrize(
    ("arch", "format", "n", "wide_loads"),
    [
        ("80", "int4", 1, 8),
        ("90", "int4", 1, 8),
        ("90", "int4", 8, 2),  # has arithmetic enough to do meanwhile
        ("90", "int8", 1, 16),
        ("90", "f16", 1, 4),
        ("gfx942", "int4", 1, 8),
    ],
)
def test_kernels_compile_for_gpus_with_wide_loads_and_no_spills(
    arch, format, n, wide_loads, tmp_path
):
    """Each lane asks for 16 bytes of codes at a time, and for all of a group before it waits.

    Barriers are of the final sums, up to five a token: there is none within the loop.
    """
    facts = compiled(tmp_path, arch, format, n, 2560)
    assert facts["spilled"] == 0
    assert facts["wide_loads"] >= wide_loads
    assert facts["barriers"] <= 5 * n


@pytest.mark.parametrize("format", FORMATS)
def test_sums_are_laid_out_alike_for_any_number_of_tokens(format, tmp_path):
    """So that on a GPU too a token's sums have one order; the interpreter cannot tell."""
    one, eight = (compiled(tmp_path, "90", format, n, 10240) for n in (1, 8))
    assert (one["layout"], one["summed"]) == (eight["layout"], eight["summed"])
