"""Float weights and activations -> quantized groups of 32 and back: the formats' definition.

Plain NumPy, written to be read: every fast kernel is tested against these functions.

    weight = level * scale              one fp16 scale for 32 neighbours along n_in

    format   code     level             scale                          bits per weight
    int8     -127..127  code            absmax / 127                   8.5
    int4     0..15      4 code - zero   searched, not negative         4.5
                        zero = 14 + the lowest 5 bits of the scale's fp16 pattern
    f16      fp16     the weight        none                           16

A scale is rounded to fp16 *before* its codes are computed, so the codes fit the scale that is
stored. The int4 zero point moves in quarters of a step and costs no bits: of the 32 scales around
the best one, the search takes the one whose lowest bits name the zero point it wants.
n_in is padded with zeros to a multiple of 32.
"""

import numpy as np
import numpy.typing as npt

from quantize.description.formats import (
    GROUP,
    INT4_LOWEST_ZERO,
    INT4_ZERO_BITS,
    SMALLEST_ACTIVATION,
    groups_of,
)

F16_MAX = 65504.0
"""The largest finite fp16 value; a larger weight is refused by the quantizer."""

Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]


def split_groups(weights: Float32) -> Float32:
    """Return weights [n_out, n_in] as [n_out, n_groups, 32], padded with zeros along n_in."""
    n_out, n_in = weights.shape
    n_groups = groups_of(n_in)
    if n_in != n_groups * GROUP:
        weights = np.pad(weights, ((0, 0), (0, n_groups * GROUP - n_in)))
    return weights.reshape(n_out, n_groups, GROUP)


def quantize_int8(weights: Float32) -> tuple[Int8, Float16]:
    """Round weights to 255 levels per group; no weight moves by more than half a scale.

    weights  [n_out, n_in]          f32  finite, magnitudes up to 65504
    codes    [n_out, n_groups, 32]  i8   rint(weight / scale), half to even: -127..127
    scales   [n_out, n_groups]      f16  nearest absmax / 127

    Among fp16's subnormals the nearest may be too small for the code 127 to reach absmax: then
    the scale is the next larger fp16 (at least 2**-24, except in an all-zero group: 0).
    """
    groups = split_groups(weights)
    absmax = np.abs(groups).max(axis=2)
    scales = (absmax / np.float32(127)).astype(np.float16)
    too_small = absmax > np.float32(127.5) * scales.astype(np.float32)
    scales = np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)
    steps = scales.astype(np.float32)[:, :, None]
    codes = np.divide(groups, steps, out=np.zeros_like(groups), where=steps != 0)
    return np.rint(codes, out=codes).astype(np.int8), scales


def dequantize_int8(codes: Int8, scales: Float16) -> Float32:
    """Return codes [n_out, n_groups, 32] * scales [n_out, n_groups] as f32 [n_out, n_in padded]."""
    weights = codes.astype(np.float32) * scales.astype(np.float32)[:, :, None]
    return weights.reshape(codes.shape[0], -1)


def int4_zeros(scales: Float16) -> Int32:
    """Return the zero points, in quarter steps, that scales (any shape) name: i32 14..45."""
    pattern = scales.view(np.uint16).astype(np.int32)
    return INT4_LOWEST_ZERO + (pattern & ((1 << INT4_ZERO_BITS) - 1))


def quantize_int4(weights: Float32, scales: Float16) -> Bytes:
    """Round weights to the 16 levels of the given scales, clipping what lies beyond them.

    weights  [n_out, n_in]          f32  finite
    scales   [n_out, n_groups]      f16  >= 0 (see scale_search)
    codes    [n_out, n_groups, 32]  u8   rint(weight / (4 scale) + zero / 4), half to even: 0..15

    Each operation rounds once to f32. Where the scale is 0 every code means 0.
    """
    groups = split_groups(weights)
    steps = np.float32(4) * scales.astype(np.float32)[:, :, None]
    codes = np.divide(groups, steps, out=np.zeros_like(groups), where=steps != 0)
    codes += int4_zeros(scales).astype(np.float32)[:, :, None] / np.float32(4)
    whole: Float32 = np.clip(np.rint(codes), 0, 15)
    return whole.astype(np.uint8)


def int4_levels(codes: Bytes, scales: Float16) -> Int8:
    """Return the whole numbers 4 * code - zero, i8 [n_out, n_groups, 32] in -45..46.

    They are what a kernel multiplies with activation codes: the sum over a group is exact.
    """
    return (4 * codes.astype(np.int32) - int4_zeros(scales)[:, :, None]).astype(np.int8)


def dequantize_int4(codes: Bytes, scales: Float16) -> Float32:
    """Return levels * scales of codes u8 [n_out, n_groups, 32] as f32 [n_out, n_in padded]."""
    return dequantize_int8(int4_levels(codes, scales), scales)


def round_to_absmax_int4(weights: Float32) -> Float32:
    """Return weights [n_out, n_in] after plain 4-bit rounding, which the search is measured by.

    rint(w / scale) * scale with scale = fp16(absmax / 7) of each group of 32: codes -7..7.
    """
    groups = split_groups(weights)
    absmax: Float32 = np.abs(groups).max(axis=2, keepdims=True)
    steps = (absmax / np.float32(7)).astype(np.float16).astype(np.float32)
    codes = np.divide(groups, steps, out=np.zeros_like(groups), where=steps != 0)
    rounded: Float32 = np.clip(np.rint(codes), -7, 7) * steps
    return rounded.reshape(weights.shape[0], -1)[:, : weights.shape[1]]


def quantize_f16(weights: Float32) -> Float16:
    """Round weights (any shape, magnitudes up to 65504) to the nearest fp16."""
    return weights.astype(np.float16)


def dequantize_f16(weights: Float16) -> Float32:
    """Widen fp16 weights (any shape); exact."""
    return weights.astype(np.float32)


def quantize_activations(x: Float32) -> tuple[Int8, Float32, Int32]:
    """Quantize activations to int8 per group of 32, as the kernels do before each product.

    x       [..., n_in]          f32  finite, n_in a multiple of 32
    codes   [..., n_in]          i8   rint(x * (127 / amax)), half to even: -127..127
    scales  [..., n_in / 32]     f32  amax / 127
    sums    [..., n_in / 32]     i32  sum of the group's codes

    amax is the group's largest magnitude. Each operation rounds once to f32. A group with
    amax < 2**-100 has codes 0 and scale 0, so that 127 / amax cannot overflow.
    """
    groups = x.reshape(*x.shape[:-1], -1, GROUP)
    amax = np.abs(groups).max(axis=-1)
    is_zero = amax < np.float32(SMALLEST_ACTIVATION)
    factor = np.float32(127) / np.where(is_zero, np.float32(1), amax)
    factor = np.where(is_zero, np.float32(0), factor)
    codes = np.rint(groups * factor[..., None]).astype(np.int8)
    scales = np.where(is_zero, np.float32(0), amax / np.float32(127))
    return codes.reshape(x.shape), scales, codes.sum(axis=-1, dtype=np.int32)
