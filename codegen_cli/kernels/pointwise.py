"""What happens to one token's row between the matrix products: norm, rotary, quantization."""

import numpy as np
from numba import carray, float32, int32, njit, uint8, uint16

from codegen_cli.kernels.threading_primitives import pointer_to
from codegen_cli.kernels.vectors import (
    absolute,
    every_lane,
    first_lanes,
    fma,
    larger,
    largest_lane,
    load_f32,
    load_one_f16,
    round_half_even,
    store_f32,
    store_i8x16,
    sum_lanes,
    times_power_of_two,
    to_i32,
)
from quantize.description.formats import (
    BAND,
    GROUP,
    INT8_ZERO,
    LANES,
    MATRIX_FORMATS,
    SMALLEST_ACTIVATION,
    WORD,
)

_F16_NUMBER = MATRIX_FORMATS["f16"].number

_compile = njit(nogil=True, error_model="numpy")


@_compile
def embed_int8(out, token_id, codes, scales):
    """Row `token_id` of the packed int8 embedding as float32.

    out            [n_embd padded to 32]  f32  overwritten
    codes, scales                              as in matmul.matmul_int8
    """
    band, lane = token_id // BAND, token_id % BAND
    n_groups = out.shape[0] // GROUP
    for group in range(n_groups):
        at = band * n_groups + group
        scale = load_one_f16(scales, at * BAND + lane)
        for i in range(GROUP):
            code = codes[((at * GROUP + i // WORD * WORD) * BAND) + lane * WORD + i % WORD]
            out[group * GROUP + i] = float32(int32(code) - int32(INT8_ZERO)) * scale


@_compile
def embed_f16(out, token_id, weights):
    """Row `token_id` of the packed fp16 embedding as float32.

    out      [n_embd padded to 32]  f32  overwritten
    weights                              as in matmul.matmul_f16
    """
    band, lane = token_id // BAND, token_id % BAND
    for i in range(out.shape[0]):
        out[i] = load_one_f16(weights, (band * out.shape[0] + i) * BAND + lane)


@_compile
def embed(out, token_id, matrix):
    """Row `token_id` of an embedding as float32, by the kernel of its own format.

    out     [n_embd padded to 32]  f32  overwritten
    matrix                              a MATRIX record of the step table
    """
    n_groups = matrix.n_bands * matrix.n_groups
    if matrix.format == _F16_NUMBER:
        weights = carray(pointer_to(matrix.codes, uint16), (n_groups * GROUP * BAND,))
        embed_f16(out, token_id, weights)
    else:
        codes = carray(pointer_to(matrix.codes, uint8), (n_groups * matrix.group_bytes,))
        scales = carray(pointer_to(matrix.scales, uint16), (n_groups * BAND,))
        embed_int8(out, token_id, codes, scales)


@_compile
def add(out, x, bias, n):
    """out += x + bias, over the first n values.

    out, x, bias  [>= n]  f32
    """
    for i in range(n):
        out[i] += x[i] + bias[i]


@_compile
def layer_norm(out, x, weight, bias, n, epsilon):
    """out = (x - mean) / sqrt(variance + epsilon) * weight + bias, over the first n values.

    out, x  [n padded to 32]  f32  out's padding is set to 0
    weight  [n padded to 16]  f32
    bias    [n padded to 16]  f32
    """
    total = every_lane(float32(0))
    for i in range(0, n, LANES):
        total = total + first_lanes(load_f32(x, i), int32(n - i), float32(0))
    mean = every_lane(sum_lanes(total) / float32(n))
    total = every_lane(float32(0))
    for i in range(0, n, LANES):
        distance = first_lanes(load_f32(x, i) - mean, int32(n - i), float32(0))
        total = fma(distance, distance, total)
    variance = sum_lanes(total) / float32(n)
    scale = every_lane(float32(1) / np.sqrt(variance + epsilon))
    for i in range(0, out.shape[0], LANES):
        if i >= n:
            store_f32(out, i, every_lane(float32(0)))
            continue
        normal = (load_f32(x, i) - mean) * scale
        result = fma(normal, load_f32(weight, i), load_f32(bias, i))
        store_f32(out, i, first_lanes(result, int32(n - i), float32(0)))


@_compile
def exp(x):
    """e**x of 16 lanes, x within [-87, 88], to about 1 ulp.

    x = n ln 2 + r with |r| <= ln 2 / 2; e**r by the degree-7 minimax polynomial of the Cephes
    library (expf.c; Moshier), ln 2 in two parts so that n ln 2 is exact.
    """
    n = round_half_even(x * every_lane(float32(1.44269504088896341)))
    r = fma(n, every_lane(float32(-0.693359375)), x)
    r = fma(n, every_lane(float32(2.12194440e-4)), r)
    p = every_lane(float32(1.9875691500e-4))
    p = fma(p, r, every_lane(float32(1.3981999507e-3)))
    p = fma(p, r, every_lane(float32(8.3334519073e-3)))
    p = fma(p, r, every_lane(float32(4.1665795894e-2)))
    p = fma(p, r, every_lane(float32(1.6666665459e-1)))
    p = fma(p, r, every_lane(float32(5.0000001201e-1)))
    p = fma(p, r * r, r + every_lane(float32(1)))
    return times_power_of_two(p, to_i32(n))


@_compile
def rotate(x, cosines, sines):
    """Rotary position embedding, in place: pairs (0, 1), (2, 3), ... as in GPT-J.

    x        [head_dim]       f32  the first rotary_dim values are rotated
    cosines  [rotary_dim / 2] f32  of this position's angles
    sines    [rotary_dim / 2] f32
    """
    for pair in range(cosines.shape[0]):
        even, odd = x[2 * pair], x[2 * pair + 1]
        x[2 * pair] = even * cosines[pair] - odd * sines[pair]
        x[2 * pair + 1] = odd * cosines[pair] + even * sines[pair]


@_compile
def quantize_group(x, start, codes, scales, sums, token):
    """Quantize x[start : start + 32] to int8; groups.quantize_activations is the twin.

    x       [>= start + 32]  f32
    codes   [n_tokens * 32]  i8   this group's: token's 32 are overwritten
    scales  [n_tokens]       f32  largest magnitude / 127
    sums    [n_tokens]       f32  sum of the codes: a whole number
    """
    first, second = load_f32(x, start), load_f32(x, start + LANES)
    largest = largest_lane(larger(absolute(first), absolute(second)))
    if largest < float32(SMALLEST_ACTIVATION):
        for i in range(GROUP):
            codes[token * GROUP + i] = 0
        scales[token] = float32(0)
        sums[token] = float32(0)
        return
    inverse = every_lane(float32(127) / largest)
    low, high = to_i32(round_half_even(first * inverse)), to_i32(round_half_even(second * inverse))
    store_i8x16(codes, token * GROUP, low)
    store_i8x16(codes, token * GROUP + LANES, high)
    scales[token] = largest / float32(127)
    sums[token] = float32(sum_lanes(low + high))
