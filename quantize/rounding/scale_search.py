"""A tile of float weights -> int4 scales whose 16 levels lie best: least squared error by group.

For each group some pairs (step, zero point) are tried: codes are rounded with the pair, the pair
that fits these codes best is found by least squares in closed form, and the error that it leaves is
the pair's mark (the search of make_qkx2_quants in github.com/ggml-org/llama.cpp). Then, for three
zero points in quarter steps around the winner's, the scale is fitted again, rounded to the nearest
fp16 whose lowest bits name that zero point (groups.int4_zeros), and marked by its exact error.

The groups of a band lie side by side, one in each lane, and each adds its columns in order; no flag
lets the compiler change a sum. So every CPU finds the same scales.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from quantize.description.formats import BAND, GROUP, INT4_LOWEST_ZERO, INT4_ZERO_BITS
from quantize.rounding.lanes import (
    add_exact,
    bits_of,
    clip,
    every_lane,
    from_fp16,
    larger,
    load,
    negative,
    round_half_even,
    smaller,
    store,
    to_f32,
    to_i32,
    where_less,
)

# The tried steps are the group's range / (15 + stretch): a positive stretch clips the extremes. The
# tried zero points are `shift` steps from where the middle of the range has the middle code.
STRETCHES = np.linspace(-1.5, 3.5, 8, dtype=np.float32)
SHIFTS = np.linspace(-0.6, 0.6, 5, dtype=np.float32)

F32, I32 = np.float32, np.int32
_N_COLUMNS, _INFINITY = F32(GROUP), F32(np.inf)
_HIGHEST_CODE, _MIDDLE_CODE = F32(15), F32(7.5)
# Of codes that spread less around the middle one, up to both ends, none is beyond 15.5 or -0.5.
_NEVER_CLIPPED = F32(15.99)
# A denominator this much smaller than its terms is rounding noise: all codes are equal.
_NOISE = F32(2.0**-16)

_N_ZEROS = 1 << INT4_ZERO_BITS
_LOWEST_ZERO, _HIGHEST_ZERO = F32(INT4_LOWEST_ZERO), F32(INT4_LOWEST_ZERO + _N_ZEROS - 1)
# What a group reaches below 0, at least, when it reaches 1 above 0, and the reverse: the zero point
# is never at the end of the codes.
_LEAST_BELOW = F32(INT4_LOWEST_ZERO / (60 - INT4_LOWEST_ZERO))
_LEAST_ABOVE = F32((60 - _HIGHEST_ZERO) / _HIGHEST_ZERO)

_SMALLEST_NORMAL, _SUBNORMALS_PER_ONE = F32(2.0**-14), F32(2.0**24)
_N_ZEROS_F32, _HIGHEST_COUNT = F32(_N_ZEROS), F32(0x7BFF // _N_ZEROS)

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(function: Kernel) -> Kernel:
    """A kernel: it lets other threads run, and divides by zero as float32 does."""
    return cast(Kernel, njit(nogil=True, error_model="numpy")(function))


# A lane has a group. Both arrays are [32, 16] f32, a column in each row:
#
#     tile     its weights
#     scratch  overwritten: what several of the loops over columns begin with


@compiled
def search_scales(tile, scratch):
    """Return the fp16 bits of the best scale of each group, in lanes; 0 for an all-zero group."""
    nothing, n = every_lane(F32(0)), every_lane(_N_COLUMNS)
    low, high, x, error = _measure(tile)
    # Begin with the plain pair for the range, should no pair fit.
    best_gain, best_start = nothing, nothing
    best_step = (high - low) / every_lane(_HIGHEST_CODE)
    middle = every_lane(_MIDDLE_CODE)
    zero = where_less(nothing, best_step, negative(low) / best_step, middle)
    for stretch in STRETCHES:
        codes_per_unit = every_lane(_HIGHEST_CODE + stretch) / (high - low)
        codes_per_unit = where_less(low, high, codes_per_unit, nothing)
        centre = middle - (low + high) * every_lane(F32(0.5)) * codes_per_unit
        for column in range(GROUP):
            store(scratch, column * BAND, load(tile, column * BAND) * codes_per_unit)
        for shift in SHIFTS:
            if _HIGHEST_CODE + stretch + 2 * abs(shift) < _NEVER_CLIPPED:
                q, qq, qw = _fit_inner_codes(tile, scratch, centre + every_lane(shift))
            else:
                q, qq, qw = _fit_codes(tile, scratch, centre + every_lane(shift))
            # w = step * code + start
            spread = n * qq - q * q
            step = (n * qw - x * q) / spread
            start = (x - step * q) / n
            gain = step * qw + start * x
            gain = where_less(every_lane(_NOISE) * n * qq, spread, gain, nothing)
            gain = where_less(nothing, step, gain, nothing)
            best_step = where_less(best_gain, gain, step, best_step)
            best_start = where_less(best_gain, gain, start, best_start)
            best_gain = where_less(best_gain, gain, gain, best_gain)
    zero = where_less(nothing, best_gain, negative(best_start) / best_step, zero)
    for column in range(GROUP):
        quotient = where_less(nothing, best_step, load(tile, column * BAND) / best_step, nothing)
        store(scratch, column * BAND, quotient)
    pattern = every_lane(I32(0))
    for move in range(-1, 2):
        tried = _fit_scale(tile, scratch, zero, F32(move))
        tried_error = _error(tile, tried)
        pattern = where_less(tried_error, error, tried, pattern)
        error = where_less(tried_error, error, tried_error, error)
    return pattern


@compiled
def _measure(tile):
    """Return the range, widened to hold every zero point, and the sums of w and w**2."""
    low = high = x = xx = every_lane(F32(0))
    for column in range(GROUP):
        w = load(tile, column * BAND)
        low, high = smaller(w, low), larger(w, high)
        x += w
        xx += w * w
    low = smaller(negative(high) * every_lane(_LEAST_BELOW), low)
    high = larger(negative(low) * every_lane(_LEAST_ABOVE), high)
    return low, high, x, xx


def _fitting(clips: bool) -> Callable[..., Any]:
    @compiled
    def fit(tile, scaled, zero):
        twice_q = qq = qw = every_lane(F32(0))
        for column in range(GROUP):
            code = round_half_even(load(scaled, column * BAND) + zero)
            if clips:
                code = clip(code, every_lane(_HIGHEST_CODE))
            twice_q = add_exact(twice_q, code, every_lane(F32(2)))
            qq = add_exact(qq, code, code)
            qw += code * load(tile, column * BAND)
        return twice_q * every_lane(F32(0.5)), qq, qw

    return fit


_fit_codes, _fit_inner_codes = _fitting(clips=True), _fitting(clips=False)


@compiled
def int4_code(quotient, zero):
    """Return the nearest code as groups.quantize_int4 rounds it; zero in quarters of the step."""
    code = round_half_even(quotient + zero / every_lane(F32(4)))
    return clip(code, every_lane(_HIGHEST_CODE))


@compiled
def _fit_scale(tile, quotients, zero, move):
    """Return the bits of the scale that fits best with the zero point moved by quarter steps."""
    zero = round_half_even(every_lane(F32(4)) * zero) + every_lane(move)
    zero = smaller(every_lane(_HIGHEST_ZERO), larger(every_lane(_LOWEST_ZERO), zero))
    nothing, four = every_lane(F32(0)), every_lane(F32(4))
    qq = qw = nothing
    for column in range(GROUP):
        level = four * int4_code(load(quotients, column * BAND), zero) - zero
        qq = add_exact(qq, level, level)
        qw += level * load(tile, column * BAND)
    scale = where_less(nothing, qq, qw / qq, nothing)
    return _round_scale(larger(nothing, scale), zero)


@compiled
def _round_scale(scale, zero):
    """Return the bits of the fp16 near each scale that name the zero point."""
    low_bits = zero - every_lane(_LOWEST_ZERO)
    whole_bits = to_i32(low_bits)
    # fp16 numbers with the same low bits are 32 patterns apart, 2**18 in float32's patterns,
    # whose exponents are 112 larger. Below 2**-14 fp16 counts in steps of 2**-24 instead.
    offset = every_lane(I32((112 << 23) - (1 << 17))) + (whole_bits << every_lane(I32(13)))
    normal = to_f32((bits_of(scale) - offset) >> every_lane(I32(18)))
    multiple = scale * every_lane(_SUBNORMALS_PER_ONE) - low_bits
    subnormal = round_half_even(multiple / every_lane(_N_ZEROS_F32))
    count = where_less(scale, every_lane(_SMALLEST_NORMAL), subnormal, normal)
    count = smaller(every_lane(_HIGHEST_COUNT), larger(every_lane(F32(0)), count))
    return (to_i32(count) << every_lane(I32(INT4_ZERO_BITS))) + whole_bits


@compiled
def int4_zero(pattern):
    """Return the zero points that scales name by their bits, in quarter steps."""
    return to_f32((pattern & every_lane(I32(_N_ZEROS - 1))) + every_lane(I32(INT4_LOWEST_ZERO)))


@compiled
def int4_steps(scale):
    """Return four times a scale, and infinity for 0: what any weight divided by it is then 0."""
    return where_less(every_lane(F32(0)), scale, every_lane(F32(4)) * scale, every_lane(_INFINITY))


@compiled
def _error(tile, pattern):
    """Return the sum of squared differences that a scale leaves."""
    scale, zero, four = from_fp16(pattern), int4_zero(pattern), every_lane(F32(4))
    step, error = int4_steps(scale), every_lane(F32(0))
    for column in range(GROUP):
        w = load(tile, column * BAND)
        difference = w - scale * (four * int4_code(w / step, zero) - zero)
        error += difference * difference
    return error
