"""The five activation functions against float64, at ordinary inputs and at the ends of float32."""

import math

import numpy as np
import pytest
from numba import njit

from codegen_cli.kernels import activations
from codegen_cli.kernels.activations import activate
from quantize.description.config import ACTIVATION_FUNCTIONS

EXACT = {
    "gelu_new": lambda x: x / (1 + np.exp(-np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: x * np.vectorize(lambda y: 0.5 * math.erfc(-y / math.sqrt(2)))(x),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}

# Units in the last place. Measured: 2.6, 4.3, 0, 3.1, 1.4; the first two from x = -1 on, below
# which the rounded square or cube of x in an exponent makes a relative error of up to 1.4e-5.
ULPS = {"gelu_new": 4, "gelu": 6, "relu": 0, "silu": 4, "tanh": 2}


def activated(name: str, x: np.ndarray) -> np.ndarray:
    """f(x) by the kernel; x [a multiple of 16] f32."""
    out = np.array(x, np.float32)
    activate(out, np.zeros_like(out), 0, len(out), ACTIVATION_FUNCTIONS.index(name))
    return out


def ordinary() -> np.ndarray:
    """Inputs from tiny to 20, closely spaced about 0."""
    spaced = [np.linspace(-20, 20, 16 * 4000), np.linspace(-1.5, 1.5, 16 * 4000)]
    tiny = np.geomspace(1e-30, 1, 16 * 100)
    return np.concatenate([*spaced, tiny, -tiny]).astype(np.float32)


def test_numbers_and_names_have_one_order() -> None:
    for number, name in enumerate(ACTIVATION_FUNCTIONS):
        assert getattr(activations, name.upper()) == number


@pytest.mark.parametrize("name", ACTIVATION_FUNCTIONS)
def test_activation_equals_its_definition(name: str) -> None:
    x = ordinary()
    out, exact = activated(name, x), EXACT[name](x.astype(np.float64))
    error = np.abs(out - exact)
    assert (error <= 1.2e-7 * np.maximum(1, np.abs(x))).all()
    assert (error <= 1.5e-5 * np.abs(exact) + 1e-35).all()
    near = x >= -1 if name.startswith("gelu") else np.full(len(x), True)
    unit = np.spacing(np.abs(exact).astype(np.float32))
    assert (error[near] <= ULPS[name] * unit[near]).all()


@pytest.mark.parametrize("name", ACTIVATION_FUNCTIONS)
def test_ends_of_float32_give_the_limits(name: str) -> None:
    huge = np.array([-3.4e38, -1e38, -1e30, -1e10, -500, 500, 1e30, 3.4e38] * 2, np.float32)
    limit = np.sign(huge) if name == "tanh" else np.maximum(huge, 0)
    np.testing.assert_allclose(activated(name, huge), limit, rtol=1e-7, atol=1e-6)
    infinite = activated(name, np.full(16, np.inf, np.float32))
    assert (infinite == (1 if name == "tanh" else np.inf)).all()


@pytest.mark.parametrize("name", ACTIVATION_FUNCTIONS)
def test_zero_stays_zero_and_nan_stays_nan(name: str) -> None:
    """Padding is made of zeros, and a broken weight must not look sound."""
    x = np.array([0.0, -0.0, np.nan, 1.0] * 4, np.float32)
    out = activated(name, x)
    assert (out[x == 0] == 0).all()
    assert np.isnan(out[np.isnan(x)]).all()
    assert np.isfinite(out[x == 1]).all()


def test_only_the_given_range_changes_and_the_bias_is_added() -> None:
    row = np.linspace(-3, 3, 64, dtype=np.float32)
    bias = np.linspace(1, 2, 64, dtype=np.float32)
    out = row.copy()
    activate(out, bias, 16, 48, activations.RELU)
    assert np.array_equal(out[16:48], np.maximum(row + bias, 0)[16:48])
    assert np.array_equal(out[:16], row[:16])
    assert np.array_equal(out[48:], row[48:])


def test_lanes_do_not_share_a_branch() -> None:
    """Neighbours on both sides of a piece's border are as good as alone."""

    @njit
    def alone(out, x, number):
        for i in range(len(x)):
            row = np.full(16, x[i], np.float32)
            activate(row, np.zeros(16, np.float32), 0, 16, number)
            out[i] = row[0]

    x = np.random.default_rng(0).normal(0, 2.5, 16 * 20).astype(np.float32)
    for name in ACTIVATION_FUNCTIONS:
        out = np.empty_like(x)
        alone(out, x, ACTIVATION_FUNCTIONS.index(name))
        assert np.array_equal(out, activated(name, x)), name
