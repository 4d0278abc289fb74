"""Codes and scales <-> a payload's bytes, in the order the kernels read them.

Rows (n_out) are padded to n_bands of 16 and columns (n_in) to n_groups of 32. A padded row has
scale 0, so its products are exactly 0; a padded column meets activations that are 0. Numbers are
little-endian, the last axis varies fastest:

    int8   codes   u8   [n_bands][n_in/4][16 rows][4 columns]       byte = code + 128
           scales  fp16 [n_bands][n_groups][16 rows]
    int4   codes   u8   [n_bands][n_groups][4][16 rows][4 columns]  nibble = code
                        byte [.][g][j][.][c]: low  nibble = column 32 g      + 4 j + c
                                              high nibble = column 32 g + 16 + 4 j + c
           scales  fp16 [n_bands][n_groups][16 rows]
    f16    weights fp16 [n_bands][n_in][16 rows]
    f32    vector  f32  [n]

Scales follow codes directly; a payload ends with zeros up to a multiple of 64 bytes.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from quantize.description.formats import (
    BAND,
    GROUP,
    INT8_ZERO,
    LINE_BYTES,
    MATRIX_FORMATS,
    WORD,
    Format,
    bands_of,
    groups_of,
    round_up,
)
from quantize.rounding.groups import Bytes, Float16, Float32, Int8

# Words of a group, a byte for each code; int4's bytes hold two codes, half a group apart.
_GROUP_WORDS = GROUP // WORD

Shape = tuple[int, ...]
Scalar = TypeVar("Scalar", bound=np.generic)


def codes_bytes(format: Format, shape: Shape) -> int:
    """Return the bytes before the scales of a tensor of this (unpadded) shape."""
    if format == "f32":
        return shape[0] * 4
    return bands_of(shape[0]) * groups_of(shape[1]) * MATRIX_FORMATS[format].group_bytes


def scales_bytes(format: Format, shape: Shape) -> int:
    """Return the bytes of the scales of a tensor of this (unpadded) shape, 0 where it has none."""
    if format == "f32":
        return 0
    return bands_of(shape[0]) * groups_of(shape[1]) * MATRIX_FORMATS[format].scales_bytes


def payload_bytes(format: Format, shape: Shape) -> int:
    """Return the bytes of a tensor's whole payload, a multiple of 64."""
    return round_up(codes_bytes(format, shape) + scales_bytes(format, shape), LINE_BYTES)


def new_payload(format: Format, shape: Shape) -> Bytes:
    """Return an all-zero payload, to be filled through its `codes_view` and `scales_view`."""
    return np.zeros(payload_bytes(format, shape), np.uint8)


def codes_view(format: Format, shape: Shape, payload: Bytes) -> npt.NDArray[np.generic]:
    """Return the part of a payload before its scales, as the array drawn above; no copy.

    int8 u8 [n_bands, n_in/4, 16, 4], int4 u8 [n_bands, n_groups, 4, 16, 4],
    f16 fp16 [n_bands, n_in, 16], f32 f32 [n] (not padded).
    """
    part = payload[: codes_bytes(format, shape)]
    if format == "f32":
        return part.view("<f4")
    n_bands, n_groups = bands_of(shape[0]), groups_of(shape[1])
    if format == "int8":
        return part.reshape(n_bands, n_groups * _GROUP_WORDS, BAND, WORD)
    if format == "int4":
        return part.reshape(n_bands, n_groups, _GROUP_WORDS // 2, BAND, WORD)
    return part.view("<f2").reshape(n_bands, n_groups * GROUP, BAND)


def scales_view(format: Format, shape: Shape, payload: Bytes) -> Float16:
    """Return the scales of an int8 or int4 payload, fp16 [n_bands, n_groups, 16]; no copy."""
    start = codes_bytes(format, shape)
    part = payload[start : start + scales_bytes(format, shape)]
    return part.view("<f2").reshape(bands_of(shape[0]), groups_of(shape[1]), BAND)


def order_int8_codes(codes: Int8) -> Bytes:
    """Return codes [n_out, n_groups, 32] as u8 [n_bands, n_in/4, 16, 4], rows padded."""
    unsigned = _split_rows(codes).view(np.uint8) ^ np.uint8(INT8_ZERO)  # code + 128
    words = unsigned.reshape(*unsigned.shape[:2], -1).view(np.uint32)  # 4 columns each
    return _bytes_of(words.transpose(0, 2, 1))


def order_int4_codes(codes: Bytes) -> Bytes:
    """Return codes [n_out, n_groups, 32], two to a byte, as u8 [n_bands, n_groups, 4, 16, 4]."""
    words = _split_rows(codes).view(np.uint32)  # [n_bands, 16, n_groups, 8]
    low, high = words[..., : _GROUP_WORDS // 2], words[..., _GROUP_WORDS // 2 :]
    pairs = low | high << np.uint32(4)
    return _bytes_of(pairs.transpose(0, 2, 3, 1))


def order_scales(scales: Float16) -> Float16:
    """Return scales [n_out, n_groups] as fp16 [n_bands, n_groups, 16], rows padded."""
    return _split_rows(scales).transpose(0, 2, 1)


def order_f16(weights: Float16) -> Float16:
    """Return weights [n_out, n_in] as fp16 [n_bands, n_in padded, 16]."""
    n_in = weights.shape[1]
    columns = np.pad(weights, ((0, 0), (0, groups_of(n_in) * GROUP - n_in)))
    return _split_rows(columns).transpose(0, 2, 1)


def pack_int8(codes: Int8, scales: Float16) -> Bytes:
    """Return the payload of codes i8 [n_out, n_groups, 32], scales f16 [n_out, n_groups]."""
    shape = (codes.shape[0], codes.shape[1] * GROUP)
    payload = new_payload("int8", shape)
    codes_view("int8", shape, payload)[:] = order_int8_codes(codes)
    scales_view("int8", shape, payload)[:] = order_scales(scales)
    return payload


def unpack_int8(payload: Bytes, shape: Shape) -> tuple[Int8, Float16]:
    """Return codes i8 [n_out, n_groups, 32] and scales f16 [n_out, n_groups] of a payload."""
    ordered = codes_view("int8", shape, payload).transpose(0, 2, 1, 3)
    codes = (ordered.astype(np.int16) - INT8_ZERO).astype(np.int8)
    return codes.reshape(-1, groups_of(shape[1]), GROUP)[: shape[0]], _unpack_scales(
        "int8", payload, shape
    )


def pack_int4(codes: Bytes, scales: Float16) -> Bytes:
    """Return the payload of codes u8 0..15 [n_out, n_groups, 32], scales f16 [n_out, n_groups]."""
    shape = (codes.shape[0], codes.shape[1] * GROUP)
    payload = new_payload("int4", shape)
    codes_view("int4", shape, payload)[:] = order_int4_codes(codes)
    scales_view("int4", shape, payload)[:] = order_scales(scales)
    return payload


def unpack_int4(payload: Bytes, shape: Shape) -> tuple[Bytes, Float16]:
    """Return codes u8 0..15 [n_out, n_groups, 32] and scales f16 [n_out, n_groups] of a payload."""
    ordered = codes_view("int4", shape, payload).astype(np.uint8)
    halves = np.stack([ordered & 15, ordered >> 4])  # [2, n_bands, n_groups, 4, 16, 4]
    codes = halves.transpose(1, 4, 2, 0, 3, 5)
    return codes.reshape(-1, groups_of(shape[1]), GROUP)[: shape[0]], _unpack_scales(
        "int4", payload, shape
    )


def pack_f16(weights: Float16) -> Bytes:
    """Return the payload of weights fp16 [n_out, n_in]."""
    payload = new_payload("f16", weights.shape)
    codes_view("f16", weights.shape, payload)[:] = order_f16(weights)
    return payload


def unpack_f16(payload: Bytes, shape: Shape) -> Float16:
    """Return the weights fp16 [n_out, n_in] of a payload."""
    ordered = codes_view("f16", shape, payload).transpose(0, 2, 1)
    return ordered.reshape(-1, ordered.shape[2])[: shape[0], : shape[1]].astype(np.float16)


def pack_f32(vector: Float32) -> Bytes:
    """Return the payload of a vector f32 [n]."""
    payload = new_payload("f32", vector.shape)
    codes_view("f32", vector.shape, payload)[:] = vector
    return payload


def unpack_f32(payload: Bytes, shape: Shape) -> Float32:
    """Return a vector f32 [n], a view of its payload."""
    return codes_view("f32", shape, payload).astype(np.float32, copy=False)


def _bytes_of(words: npt.NDArray[np.uint32]) -> Bytes:
    """Return u32 [...] as u8 [..., 4]."""
    return np.ascontiguousarray(words)[..., None].view(np.uint8)


def _split_rows(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Return [n_out, ...] as [n_bands, 16, ...], padded with zero rows."""
    n_out = array.shape[0]
    missing = bands_of(n_out) * BAND - n_out
    if missing:
        array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
    return array.reshape(-1, BAND, *array.shape[1:])


def _unpack_scales(format: Format, payload: Bytes, shape: Shape) -> Float16:
    ordered = scales_view(format, shape, payload).transpose(0, 2, 1)
    return ordered.reshape(-1, ordered.shape[2])[: shape[0]].astype(np.float16)
