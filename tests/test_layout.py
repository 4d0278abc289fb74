"""The order of codes and scales in a payload, byte by byte."""

import numpy as np
import pytest

from quantize.description.formats import BAND, GROUP, round_up
from quantize.packed.layout import (
    codes_bytes,
    codes_view,
    new_payload,
    order_f16,
    order_int4_codes,
    order_int8_codes,
    order_scales,
    pack_f16,
    pack_f32,
    pack_int4,
    pack_int8,
    payload_bytes,
    scales_view,
    unpack_f16,
    unpack_f32,
    unpack_int4,
    unpack_int8,
)

SHAPES = [(1, 1), (16, 32), (15, 31), (17, 33), (48, 96), (50, 100)]


def random_codes(format, shape):
    random = np.random.RandomState(7)
    n_groups = round_up(shape[1], GROUP) // GROUP
    low, high, dtype = (-127, 127, np.int8) if format == "int8" else (0, 15, np.uint8)
    codes = random.randint(low, high + 1, (shape[0], n_groups, GROUP)).astype(dtype)
    codes.reshape(shape[0], -1)[:, shape[1] :] = 0
    scales = random.standard_normal((shape[0], n_groups)).astype(np.float16)
    return codes, scales


def scale_at(payload, format, shape, row, group):
    """Read one scale as docs/format.md describes it, with integer arithmetic only."""
    n_groups = round_up(shape[1], GROUP) // GROUP
    index = (row // 16 * n_groups + group) * 16 + row % 16
    start = codes_bytes(format, shape) + 2 * index
    return payload[start : start + 2].view(np.float16)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_byte_of_each_weight_is_where_the_drawing_says(shape):
    codes, scales = random_codes("int8", shape)
    payload = pack_int8(codes, scales)
    n_in = round_up(shape[1], GROUP)
    for row, column in np.ndindex(shape):
        index = ((row // 16 * (n_in // 4) + column // 4) * 16 + row % 16) * 4 + column % 4
        group = column // GROUP
        assert payload[index] == int(codes[row, group, column % GROUP]) + 128
        assert scale_at(payload, "int8", shape, row, group) == scales[row, group]


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_nibble_of_each_weight_is_where_the_drawing_says(shape):
    codes, scales = random_codes("int4", shape)
    payload = pack_int4(codes, scales)
    n_groups = round_up(shape[1], GROUP) // GROUP
    for row, column in np.ndindex(shape):
        group, within = divmod(column, GROUP)
        high, within_half = divmod(within, 16)
        j, c = divmod(within_half, 4)
        index = (((row // 16 * n_groups + group) * 4 + j) * 16 + row % 16) * 4 + c
        assert payload[index] >> (4 * high) & 15 == codes[row, group, within]
        assert scale_at(payload, "int4", shape, row, group) == scales[row, group]


@pytest.mark.parametrize("shape", SHAPES)
def test_f16_weights_stand_column_by_column_in_bands_of_sixteen_rows(shape):
    weights = np.random.RandomState(7).standard_normal(shape).astype(np.float16)
    numbers = pack_f16(weights).view(np.float16)
    n_in = round_up(shape[1], GROUP)
    for row, column in np.ndindex(shape):
        assert numbers[(row // 16 * n_in + column) * 16 + row % 16] == weights[row, column]
    assert np.count_nonzero(numbers) == np.count_nonzero(weights)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_packing_is_undone_by_unpacking(format, shape):
    if format == "int8":
        codes, scales = random_codes("int8", shape)
        restored_codes, restored_scales = unpack_int8(pack_int8(codes, scales), shape)
    else:
        codes, scales = random_codes("int4", shape)
        restored_codes, restored_scales = unpack_int4(pack_int4(codes, scales), shape)
    assert np.array_equal(restored_codes, codes)
    assert np.array_equal(restored_scales, scales)


@pytest.mark.parametrize("shape", SHAPES)
def test_f16_packing_is_undone_by_unpacking(shape):
    weights = np.random.RandomState(7).standard_normal(shape).astype(np.float16)
    assert np.array_equal(unpack_f16(pack_f16(weights), shape), weights)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 256])
def test_vectors_are_float32_followed_by_zeros(n):
    vector = np.random.RandomState(7).standard_normal(n).astype(np.float32)
    payload = pack_f32(vector)
    assert payload[: 4 * n].tobytes() == vector.tobytes()
    assert not payload[4 * n :].any()
    assert np.array_equal(unpack_f32(payload, (n,)), vector)


@pytest.mark.parametrize(("pack", "zero_byte"), [(pack_int8, 128), (pack_int4, 0)])
def test_padding_rows_have_scale_zero(pack, zero_byte):
    format = "int8" if pack is pack_int8 else "int4"
    codes, scales = random_codes(format, (17, 32))
    payload = pack(codes, scales)
    shape = (17, 32)
    # Row 16 is the only real row of the second band.
    band = codes_view(format, shape, payload)[1]
    assert np.all(np.moveaxis(band, -2, 0)[1:] == zero_byte)
    assert not scales_view(format, shape, payload)[1, :, 1:].any()


@pytest.mark.parametrize(
    ("format", "shape", "codes", "whole"),
    [
        ("int8", (16, 32), 512, 576),  # 16 scales are 32 bytes: padded to 64
        ("int8", (17, 33), 32 * 64, 32 * 64 + 2 * 32 * 2),
        ("int4", (16, 32), 256, 320),
        ("int4", (256, 1024), 256 * 512, 256 * 512 + 256 * 32 * 2),
        ("f16", (1, 1), 1024, 1024),
        ("f32", (1,), 4, 64),
        ("f32", (51200,), 204800, 204800),
    ],
)
def test_payload_sizes(format, shape, codes, whole):
    assert codes_bytes(format, shape) == codes
    assert payload_bytes(format, shape) == whole
    assert new_payload(format, shape).size == whole


@pytest.mark.parametrize("format", ["int8", "int4", "f16"])
def test_portions_of_rows_ordered_one_by_one_equal_the_whole(format):
    shape = (3 * BAND + 5, 96)
    codes, scales = random_codes(format, shape)
    whole = {
        "int8": lambda: pack_int8(codes, scales),
        "int4": lambda: pack_int4(codes, scales),
        "f16": lambda: pack_f16(codes.reshape(shape).astype(np.float16)),
    }[format]()
    payload = new_payload(format, shape)
    for start in range(0, shape[0], 2 * BAND):
        rows = slice(start, start + 2 * BAND)
        bands = slice(start // BAND, start // BAND + 2)
        if format == "f16":
            part = order_f16(codes[rows].reshape(-1, shape[1]).astype(np.float16))
        else:
            order = order_int8_codes if format == "int8" else order_int4_codes
            part = order(codes[rows])
            scales_view(format, shape, payload)[bands] = order_scales(scales[rows])
        codes_view(format, shape, payload)[bands] = part
    assert np.array_equal(payload, whole)
