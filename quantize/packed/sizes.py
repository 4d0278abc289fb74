"""A config and a format, or a packed file -> how tensors are stored, and the bytes they take."""

from collections import Counter
from typing import cast

from quantize.description.config import ModelConfig
from quantize.description.formats import MATRIX_FORMATS, Format, MatrixFormat
from quantize.description.tensor_map import TensorSpec, tensor_specs
from quantize.packed.layout import payload_bytes
from quantize.packed.packed_file import PackedFile

_ENDS = ("wte.weight", "lm_head.weight")

BytesByFormat = dict[Format, int]
"""Bytes of weights by the format in which they are stored: an int4 file has int8 matrices, too."""


def stored_format(spec: TensorSpec, format: MatrixFormat) -> Format:
    """How a file of this format stores a tensor: vectors as f32, the two ends perhaps finer."""
    if spec.kind == "vector":
        return "f32"
    return MATRIX_FORMATS[format].ends if spec.name in _ENDS else format


def packed_bytes(config: ModelConfig, format: str) -> int:
    """Return the bytes of all tensors in a packed file; header and tokenizer.json come on top.

    format  int8, int4 or f16
    """
    return sum(
        payload_bytes(stored_format(spec, cast(MatrixFormat, format)), spec.shape)
        for spec in tensor_specs(config)
    )


def weight_bytes(packed: PackedFile) -> BytesByFormat:
    """Return what one token reads of a packed file."""
    sizes: Counter[Format] = Counter()
    for name, tensor in packed.tensors.items():
        if _is_read_whole(name, packed.config):
            sizes[tensor.format] += len(tensor.payload)
    return dict(sizes)


def weight_bytes_if_packed(config: ModelConfig, format: str) -> BytesByFormat:
    """Return what one token would read of a file that `codegen quantize` makes in this format."""
    sizes: Counter[Format] = Counter()
    for spec in tensor_specs(config):
        if _is_read_whole(spec.name, config):
            stored = stored_format(spec, cast(MatrixFormat, format))
            sizes[stored] += payload_bytes(stored, spec.shape)
    return dict(sizes)


def bits_per_weight(packed: PackedFile) -> float:
    """Return the bits that a weight of a file's matrices takes on average, its scales included."""
    matrices = [tensor for tensor in packed.tensors.values() if tensor.format != "f32"]
    n_weights = sum(tensor.shape[0] * tensor.shape[1] for tensor in matrices)
    return 8 * sum(len(tensor.payload) for tensor in matrices) / n_weights


def _is_read_whole(name: str, config: ModelConfig) -> bool:
    """Of the embedding a token reads one row, unless it is the head as well."""
    return name != "wte.weight" or config.tie_word_embeddings
