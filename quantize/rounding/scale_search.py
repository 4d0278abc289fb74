"""Float weights -> int4 scales whose 16 levels lie best: least squared error in each group of 32.

For each group some pairs (step, zero point) are tried: codes are rounded with the pair, the pair
that fits these codes best is found by least squares in closed form, and the error that it leaves is
the pair's mark (the search of make_qkx2_quants in github.com/ggml-org/llama.cpp). Then, for three
zero points in quarter steps around the winner's, the scale is fitted again, rounded to the nearest
fp16 whose lowest bits name that zero point (groups.int4_zeros), and marked by its exact error.

Many groups lie side by side, one in each lane of a SIMD register, and each adds its columns in
order; no flag lets the compiler change a sum. So every CPU finds the same scales.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from quantize.description.formats import GROUP, INT4_LOWEST_ZERO, INT4_ZERO_BITS
from quantize.rounding.groups import Float16, Float32, Int32, split_groups

# The tried steps are the group's range / (15 + stretch): a positive stretch clips the extremes. The
# tried zero points are `shift` steps from where the middle of the range has the middle code.
STRETCHES = np.linspace(-1.5, 3.5, 8, dtype=np.float32)
SHIFTS = np.linspace(-0.6, 0.6, 5, dtype=np.float32)

F16_VALUES = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
"""[31744] f32: the fp16 numbers from 0 up, by their bit pattern."""

ABREAST = 64
"""Groups searched side by side."""

F32 = np.float32
_NOTHING, _HALF, _FOUR = F32(0), F32(0.5), F32(4)
_HIGHEST_CODE, _MIDDLE_CODE = F32(15), F32(7.5)
# A denominator this much smaller than its terms is rounding noise: all codes are equal.
_NOISE = F32(2.0**-16)

_N_ZEROS = 1 << INT4_ZERO_BITS
_HIGHEST_ZERO = INT4_LOWEST_ZERO + _N_ZEROS - 1
# What a group reaches below 0, at least, when it reaches 1 above 0, and the reverse: the zero point
# is never at the end of the codes.
_LEAST_BELOW = F32(INT4_LOWEST_ZERO / (60 - INT4_LOWEST_ZERO))
_LEAST_ABOVE = F32((60 - _HIGHEST_ZERO) / _HIGHEST_ZERO)

_SMALLEST_NORMAL, _SUBNORMALS_PER_ONE = F32(2.0**-14), F32(2.0**24)
_N_ZEROS_F32, _HIGHEST_COUNT = F32(_N_ZEROS), 0x7BFF // _N_ZEROS

Patterns = npt.NDArray[np.uint16]
Kernel = TypeVar("Kernel", bound=Callable[..., object])


def _compile(function: Kernel) -> Kernel:
    return cast(Kernel, njit(nogil=True, error_model="numpy")(function))


def search_int4_scales(weights: Float32, importance: Float32 | None = None) -> Float16:
    """Return the scales with the least squared error, each channel's weighted by its importance.

    weights     [n_out, n_in]      f32  finite, magnitudes up to 65504
    importance  [n_in]             f32  positive; None: every channel counts the same
    scales      [n_out, n_groups]  f16  >= 0, naming their zero points; 0 for an all-zero group
    """
    groups = split_groups(weights)
    n_out, n_groups, _ = groups.shape
    channels = np.ones(n_groups * GROUP, np.float32)
    if importance is not None:
        channels[: len(importance)] = importance
    patterns = np.empty(n_out * n_groups, np.uint16)
    channels = channels.reshape(n_groups, GROUP)
    _search(patterns, groups.reshape(-1, GROUP), channels, STRETCHES, SHIFTS, F16_VALUES)
    return patterns.view(np.float16).reshape(n_out, n_groups)


# Arguments of the kernels, overwritten ones first; each lane has a group:
#
#     w, u     [32, ABREAST]  f32  weights, importances
#     ends     [2, ABREAST]   f32  range of the weights, widened to hold every zero point
#     sums     [3, ABREAST]   f32  of u, u w, u w**2
#     pair     [2, ABREAST]   f32  to try: codes per unit of weight, zero point in codes
#     fits     [3, ABREAST]   f32  scratch: of u q, u q**2, u q w for codes or levels q
#     best     [3, ABREAST]   f32  the best pair: what it takes off the sum of u w**2, units of
#                                  weight per code, zero point in codes
#     tried    [ABREAST]      i32  fp16 bits of a scale to try
#     error    [ABREAST]      f32  of the best scale
#     pattern  [ABREAST]      i32  fp16 bits of the best scale


@_compile
def _search(
    patterns: Patterns,
    groups: Float32,
    channels: Float32,
    stretches: Float32,
    shifts: Float32,
    f16_values: Float32,
) -> None:
    """Write the fp16 bits of each group's best scale to patterns [n_out * n_groups] u16.

    groups    [n_out * n_groups, 32]  f32
    channels  [n_groups, 32]          f32  importances; those of group i are in row i % n_groups
    """
    w, u = np.empty((GROUP, ABREAST), np.float32), np.empty((GROUP, ABREAST), np.float32)
    sums, fits = np.empty((3, ABREAST), np.float32), np.empty((3, ABREAST), np.float32)
    ends, pair = np.empty((2, ABREAST), np.float32), np.empty((2, ABREAST), np.float32)
    best, error = np.empty((3, ABREAST), np.float32), np.empty(ABREAST, np.float32)
    pattern, tried = np.empty(ABREAST, np.int32), np.empty(ABREAST, np.int32)
    for start in range(0, groups.shape[0], ABREAST):
        n_lanes = min(ABREAST, groups.shape[0] - start)
        _load(w, u, groups, channels, start, n_lanes)
        _measure(ends, sums, w, u)
        _start(best, error, pattern, ends, sums)
        for stretch in stretches:
            for shift in shifts:
                _aim(pair, ends, stretch, shift)
                _keep_better_pair(best, fits, w, u, sums, pair)
        for move in range(-1, 2):
            _fit_scale(tried, fits, w, u, best, move)
            _keep_better_scale(error, pattern, fits, w, u, tried, f16_values)
        for lane in range(n_lanes):
            patterns[start + lane] = pattern[lane]


@_compile
def _load(
    w: Float32, u: Float32, groups: Float32, channels: Float32, start: int, n_lanes: int
) -> None:
    for lane in range(ABREAST):
        # Lanes beyond the last group repeat it.
        i = start + min(lane, n_lanes - 1)
        for column in range(GROUP):
            w[column, lane] = groups[i, column]
            u[column, lane] = channels[i % channels.shape[0], column]


@_compile
def _measure(ends: Float32, sums: Float32, w: Float32, u: Float32) -> None:
    ends[:], sums[:] = _NOTHING, _NOTHING
    for column in range(GROUP):
        for lane in range(ABREAST):
            value, weight = w[column, lane], u[column, lane]
            ends[0, lane] = min(ends[0, lane], value)
            ends[1, lane] = max(ends[1, lane], value)
            sums[0, lane] += weight
            sums[1, lane] += weight * value
            sums[2, lane] += weight * value * value
    for lane in range(ABREAST):
        ends[0, lane] = min(ends[0, lane], -ends[1, lane] * _LEAST_BELOW)
        ends[1, lane] = max(ends[1, lane], -ends[0, lane] * _LEAST_ABOVE)


@_compile
def _start(best: Float32, error: Float32, pattern: Int32, ends: Float32, sums: Float32) -> None:
    """Begin with the plain pair for the range, should no pair fit, and with the scale 0."""
    for lane in range(ABREAST):
        step = (ends[1, lane] - ends[0, lane]) / _HIGHEST_CODE
        best[0, lane], best[1, lane] = _NOTHING, step
        best[2, lane] = -ends[0, lane] / step if step > 0 else _MIDDLE_CODE
        error[lane], pattern[lane] = sums[2, lane], 0


@_compile
def _aim(pair: Float32, ends: Float32, stretch: np.float32, shift: np.float32) -> None:
    for lane in range(ABREAST):
        low, high = ends[0, lane], ends[1, lane]
        codes_per_unit = (_HIGHEST_CODE + stretch) / (high - low) if high > low else _NOTHING
        pair[0, lane] = codes_per_unit
        pair[1, lane] = _MIDDLE_CODE - (low + high) * _HALF * codes_per_unit + shift


@_compile
def _keep_better_pair(
    best: Float32, fits: Float32, w: Float32, u: Float32, sums: Float32, pair: Float32
) -> None:
    """Fit w = step * (code - zero) to the codes of the pair to try; keep the better fits."""
    fits[:] = _NOTHING
    for column in range(GROUP):
        for lane in range(ABREAST):
            value = w[column, lane]
            code = _clip(np.rint(value * pair[0, lane] + pair[1, lane]))
            weighted = u[column, lane] * code
            fits[0, lane] += weighted
            fits[1, lane] += weighted * code
            fits[2, lane] += weighted * value
    for lane in range(ABREAST):
        q, qq, qw = fits[0, lane], fits[1, lane], fits[2, lane]
        n, x = sums[0, lane], sums[1, lane]
        spread = n * qq - q * q
        step = (n * qw - x * q) / spread
        start = (x - step * q) / n
        gain = step * qw + start * x
        if spread > _NOISE * n * qq and step > 0 and gain > best[0, lane]:
            best[0, lane], best[1, lane], best[2, lane] = gain, step, -start / step


@_compile
def _clip(code: np.float32) -> np.float32:
    return min(max(code, _NOTHING), _HIGHEST_CODE)


@_compile
def _level(value: np.float32, step: np.float32, zero: np.float32) -> np.float32:
    """4 * code - zero of the nearest code, rounded as in groups.quantize_int4; zero in quarters."""
    quotient = value / step if step > 0 else _NOTHING
    level: np.float32 = _FOUR * _clip(np.rint(quotient + zero / _FOUR)) - zero
    return level


@_compile
def _fit_scale(
    tried: Int32, fits: Float32, w: Float32, u: Float32, best: Float32, move: int
) -> None:
    """Set the bits of the scale that fits best with the zero point moved by quarter steps."""
    fits[:] = _NOTHING
    for lane in range(ABREAST):
        zero = int(np.rint(_FOUR * best[2, lane])) + move
        tried[lane] = min(max(zero, INT4_LOWEST_ZERO), _HIGHEST_ZERO)
    for column in range(GROUP):
        for lane in range(ABREAST):
            value = w[column, lane]
            level = _level(value, best[1, lane], np.float32(tried[lane]))
            weighted = u[column, lane] * level
            fits[1, lane] += weighted * level
            fits[2, lane] += weighted * value
    for lane in range(ABREAST):
        scale = fits[2, lane] / fits[1, lane] if fits[1, lane] > 0 else _NOTHING
        fits[0, lane] = max(scale, _NOTHING)
    _round_scales(tried, fits[0], fits[0].view(np.int32))


@_compile
def _round_scales(tried: Int32, scales: Float32, scale_bits: Int32) -> None:
    """Replace zero points by the bits of the fp16 near each scale that name the zero point.

    scales      [ABREAST]  f32
    scale_bits  [ABREAST]  i32  the same memory
    """
    for lane in range(ABREAST):
        low_bits = int(tried[lane]) - INT4_LOWEST_ZERO
        # fp16 numbers with the same low bits are 32 patterns apart, 2**18 in float32's patterns,
        # whose exponents are 112 larger. Below 2**-14 fp16 counts in steps of 2**-24 instead.
        normal = (int(scale_bits[lane]) - (112 << 23) - (low_bits << 13) + (1 << 17)) >> 18
        multiple = scales[lane] * _SUBNORMALS_PER_ONE - np.float32(low_bits)
        subnormal = int(np.rint(multiple / _N_ZEROS_F32))
        count = subnormal if scales[lane] < _SMALLEST_NORMAL else normal
        tried[lane] = min(max(count, 0), _HIGHEST_COUNT) * _N_ZEROS + low_bits


@_compile
def _keep_better_scale(
    error: Float32,
    pattern: Int32,
    fits: Float32,
    w: Float32,
    u: Float32,
    tried: Int32,
    f16_values: Float32,
) -> None:
    """Keep the tried scales that leave a smaller error; f16_values is F16_VALUES."""
    fits[0, :] = _NOTHING
    for lane in range(ABREAST):
        fits[1, lane] = f16_values[tried[lane]]
        fits[2, lane] = np.float32(INT4_LOWEST_ZERO + (tried[lane] & (_N_ZEROS - 1)))
    for column in range(GROUP):
        for lane in range(ABREAST):
            scale, value = fits[1, lane], w[column, lane]
            difference = value - scale * _level(value, _FOUR * scale, fits[2, lane])
            fits[0, lane] += u[column, lane] * difference * difference
    for lane in range(ABREAST):
        if fits[0, lane] < error[lane]:
            error[lane], pattern[lane] = fits[0, lane], tried[lane]
