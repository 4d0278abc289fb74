"""The searched int4 scales: equal to a plain NumPy search, and better than what they replace."""

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quantize.description.formats import GROUP
from quantize.rounding.groups import (
    dequantize_int4,
    int4_zeros,
    quantize_int4,
    round_to_absmax_int4,
    split_groups,
)
from quantize.rounding.rounding_process import RoundingProcess, new_portion, shared_process
from quantize.rounding.scale_search import SHIFTS, STRETCHES

F32 = np.float32


def search_int4_scales(weights, process=None):
    """The scales [n_out, n_groups] that weights get, from another process if one is given."""
    (n_rows, n_in), rounder = weights.shape, process or RoundingProcess()
    with contextlib.ExitStack() as closing:
        if process is None:
            portion = new_portion("int4", n_rows, n_in, is_half=False)
        else:
            portion = closing.enter_context(process.portion("int4", n_rows, n_in, is_half=False))
        portion.rows[:n_rows, :n_in] = weights
        rounder.round(portion)
        return portion.row_scales().copy()


def numpy_search(weights):
    """The search in plain NumPy, all groups at once: scales [n_groups] fp16."""
    w = split_groups(weights).reshape(-1, GROUP).T  # [32, n_groups]
    low, high = np.minimum(w.min(axis=0), 0), np.maximum(w.max(axis=0), 0)
    low = np.minimum(low, -high * F32(14 / 46))
    high = np.maximum(high, -low * F32(15 / 45))
    n, x, xx = F32(GROUP), added(w), added(w * w)
    step = (high - low) / F32(15)
    best = [np.zeros_like(step), step, np.where(step > 0, -low / step, F32(7.5))]
    for stretch in STRETCHES:
        for shift in SHIFTS:
            inverse = np.where(high > low, (F32(15) + stretch) / (high - low), F32(0))
            zero = F32(7.5) - (low + high) * F32(0.5) * inverse + shift
            code = np.clip(np.rint(w * inverse + zero), 0, 15)
            q, qq, qw = added(code), added(code * code), added(code * w)
            spread = n * qq - q * q
            step = (n * qw - x * q) / spread
            start = (x - step * q) / n
            gain = step * qw + start * x
            is_better = (spread > F32(2**-16) * n * qq) & (step > 0) & (gain > best[0])
            found = (gain, step, -start / step)
            best = [np.where(is_better, new, old) for new, old in zip(found, best, strict=True)]
    scales, error = np.zeros(w.shape[1], np.float16), xx
    for move in (-1, 0, 1):
        zero = np.clip(np.rint(4 * best[2]) + move, 14, 45).astype(F32)
        level = levels(w, best[1], zero)
        scale = added(level * w) / added(level * level)
        tried = nearest_naming(np.maximum(np.nan_to_num(scale), 0), zero.astype(int) - 14)
        difference = w - tried.astype(F32) * levels(w, F32(4) * tried.astype(F32), zero)
        tried_error = added(difference * difference)
        scales = np.where(tried_error < error, tried, scales)
        error = np.minimum(tried_error, error)
    return scales.reshape(len(weights), -1)


def added(terms):
    """The sum over the columns, one after the other in float32."""
    return np.add.accumulate(terms, axis=0, dtype=F32)[-1]


def levels(w, step, zero):
    quotient = np.divide(w, step, out=np.zeros_like(w), where=step > 0)
    return F32(4) * np.clip(np.rint(quotient + zero / F32(4)), 0, 15) - zero


def nearest_naming(scales, low_bits):
    """The fp16 near each scale with these lowest 5 bits, as a table of all such fp16 tells."""
    patterns = np.arange(0x7C00, dtype=np.uint16).reshape(-1, 32)
    found = np.empty(len(scales), np.float16)
    for bits in range(32):
        chosen = np.flatnonzero(low_bits == bits)
        table = patterns[:, bits].copy().view(np.float16).astype(F32)
        # Between two entries the nearer by the float32's pattern: by magnitude where fp16 is
        # subnormal, and where it is normal by steps that double at a power of two.
        above = np.clip(np.searchsorted(table, scales[chosen], "right"), 1, len(table) - 1)
        lower, upper = table[above - 1], table[above]
        value = np.maximum(scales[chosen], table[0])
        by_pattern = [v.view(np.int32).astype(np.int64) for v in (lower, value, upper)]
        is_normal = value >= F32(2**-14)
        to_lower = np.where(is_normal, by_pattern[1] - by_pattern[0], value - lower)
        to_upper = np.where(is_normal, by_pattern[2] - by_pattern[1], upper - value)
        found[chosen] = np.where(to_lower < to_upper, lower, upper)
    return found


def weights_of_every_kind():
    random = np.random.RandomState(4)
    normal = random.standard_normal((70, 5 * GROUP)).astype(F32)
    heavy = random.standard_t(3, (40, 5 * GROUP)).astype(F32) * F32(0.02)
    one_sided = np.abs(normal[:20])
    tiny = normal[:20] * F32(1e-6)
    sparse = normal[:20] * (random.uniform(size=(20, 5 * GROUP)) < 0.1)
    constant = np.full((3, 5 * GROUP), F32(0.3))
    large = normal[:5] * F32(10000)
    zero = np.zeros((2, 5 * GROUP), F32)
    kinds = (normal, heavy, one_sided, -one_sided, tiny, sparse, constant, -constant, large, zero)
    return np.concatenate(kinds).astype(F32)


def restored(weights, scales):
    return dequantize_int4(quantize_int4(weights, scales), scales)[:, : weights.shape[1]]


def squared_error(weights, scales):
    return float(((restored(weights, scales) - weights) ** 2).sum(dtype=np.float64))


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")
def test_search_equals_its_numpy_twin():
    weights = weights_of_every_kind()
    assert np.array_equal(search_int4_scales(weights), numpy_search(weights))


@pytest.mark.parametrize("draw", ["normal", "laplace"])
def test_root_of_squared_error_is_less_than_four_fifths_of_plain_rounding(draw):
    weights = getattr(np.random.RandomState(6), draw)(size=(256, 256)).astype(F32)
    plain = float(((round_to_absmax_int4(weights) - weights) ** 2).sum(dtype=np.float64))
    ratio = np.sqrt(squared_error(weights, search_int4_scales(weights)) / plain)
    # Measured: 0.73 and 0.69.
    assert ratio < 0.8


def test_search_is_within_2_percent_of_every_scale_and_zero_point():
    weights = np.random.RandomState(7).standard_normal((16, GROUP)).astype(F32)
    # fp16 patterns of 0.03 .. 0.12: the best scale of 32 normal weights is about 0.07.
    patterns = np.arange(0x27AE, 0x2FAE, dtype=np.uint16).view(np.float16)
    errors = [
        ((restored(weights, np.full((16, 1), scale)) - weights) ** 2).sum(axis=1)
        for scale in patterns
    ]
    best = np.min(errors, axis=0).sum()
    assert squared_error(weights, search_int4_scales(weights)) < 1.02 * best


def test_a_group_alone_finds_the_scale_that_it_finds_among_others():
    weights = weights_of_every_kind()
    together = search_int4_scales(weights)
    alone = [
        search_int4_scales(weights[i : i + 1, 32 * j : 32 * j + 32])
        for i, j in np.ndindex(together.shape)
    ]
    assert np.array_equal(np.ravel(alone), together.ravel())


def test_threads_do_not_disturb_each_other():
    weights = weights_of_every_kind()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(search_int4_scales, [weights] * 8))
    assert all(np.array_equal(scales, found[0]) for scales in found)


def test_a_process_of_its_own_finds_the_same_and_answers_whoever_asked():
    weights = weights_of_every_kind()
    parts = [weights[: 1 + i, : 16 * (1 + i)] for i in range(8)]
    with shared_process() as process, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda part: search_int4_scales(part, process), parts))
    for scales, part in zip(found, parts, strict=True):
        assert np.array_equal(scales, search_int4_scales(part))


def test_without_another_python_it_is_found_here(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    weights = weights_of_every_kind()
    assert np.array_equal(
        search_int4_scales(weights, RoundingProcess()), search_int4_scales(weights)
    )


def test_all_zero_group_has_scale_zero():
    weights = np.random.RandomState(9).standard_normal((2, 96)).astype(F32)
    weights[1, 32:64] = 0
    scales = search_int4_scales(weights)
    assert np.argwhere(scales == 0).tolist() == [[1, 1]]


@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_groups_use_all_codes_on_their_side(sign):
    weights = np.abs(np.random.RandomState(10).standard_normal((8, GROUP))).astype(F32) * sign
    scales = search_int4_scales(weights)
    zeros = int4_zeros(scales)  # of 14..45
    assert np.all(zeros <= 15) if sign > 0 else np.all(zeros >= 44)


@pytest.mark.parametrize("value", [0.3, -0.3, 60000.0])
def test_equal_weights_are_kept_within_one_percent(value):
    weights = np.full((1, GROUP), value, F32)
    assert np.allclose(restored(weights, search_int4_scales(weights)), weights, rtol=0.01)


@pytest.mark.parametrize(
    ("spread", "bound"), [(1e-2, 0.072), (5e-4, 0.073), (1e-4, 0.085), (2.0**-20, 1.0)]
)
def test_error_grows_where_scales_are_subnormal(spread, bound):
    # Below 2**-14 the scales that name one zero point are 2**-19 apart, which is coarse for a group
    # with no weight beyond 1e-3. Measured: 0.0707, 0.0716, 0.0815 and 0.88 of the weights' rms.
    weights = np.random.RandomState(11).standard_normal((64, 256)).astype(F32) * F32(spread)
    error = squared_error(weights, search_int4_scales(weights))
    assert np.sqrt(error / (weights.astype(np.float64) ** 2).sum()) < bound


def test_columns_that_do_not_fill_a_group_are_searched_as_if_padded_with_zeros():
    weights = np.random.RandomState(12).standard_normal((4, 45)).astype(F32)
    padded = np.pad(weights, ((0, 0), (0, 19)))
    assert np.array_equal(search_int4_scales(weights), search_int4_scales(padded))


def test_numba_is_imported_with_the_search_and_not_with_the_quantizer():
    code = "import sys, quantize.quantize_model; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
