"""A packed file -> the numbers that it stands for, for the oracle."""

from collections.abc import Mapping

import numpy as np

from quantize.description.config import parse_config
from quantize.description.tensor_map import tensor_specs
from quantize.packed import layout
from quantize.packed.packed_file import PackedFile, PackedTensor
from quantize.rounding import groups


def packed_weights(packed: PackedFile, config: Mapping[str, object]) -> dict[str, np.ndarray]:
    """The values that a packed file stands for, f64, by the checkpoint's names and in its order.

    config  the checkpoint's: a packed file does not say in which layout it was
    """
    weights = {}
    for spec in tensor_specs(parse_config(config, "config.json")):
        rows = slice(None) if spec.row_order is None else spec.row_order
        values = np.empty(spec.shape)
        values[rows] = dequantized(packed.tensors[spec.name])
        weights |= zip(spec.sources, np.split(values, len(spec.sources)), strict=True)
    return weights


def dequantized(tensor: PackedTensor) -> np.ndarray:
    """The values of a packed tensor, f32 of its shape without padding."""
    payload, shape = tensor.payload, tensor.shape
    if tensor.format == "f32":
        return layout.unpack_f32(payload, shape)
    if tensor.format == "int8":
        return groups.dequantize_int8(*layout.unpack_int8(payload, shape))[:, : shape[1]]
    if tensor.format == "f16":
        return layout.unpack_f16(payload, shape).astype(np.float32)
    return groups.dequantize_int4(*layout.unpack_int4(payload, shape))[:, : shape[1]]
