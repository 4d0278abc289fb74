"""A model -> the bytes that one more token makes the CPU read: its weights, and the cache."""

from collections import Counter
from typing import cast

from codegen_cli.engine_cpu.kv_cache import cache_bytes, capacity_of
from quantize.description.config import ModelConfig
from quantize.description.tensor_map import tensor_specs
from quantize.packed.layout import payload_bytes
from quantize.packed.packed_file import PackedFile
from quantize.quantize_model import stored_format
from quantize.rounding.blocks import Format

BytesByFormat = dict[Format, int]
"""Bytes of weights by the format in which they are stored: an int4 file has int8 matrices, too."""


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
            stored = stored_format(spec, cast(Format, format))
            sizes[stored] += payload_bytes(stored, spec.shape)
    return dict(sizes)


def position_bytes(config: ModelConfig) -> int:
    """Return the bytes of keys and values that one position adds to what each later token reads."""
    return cache_bytes(config) // capacity_of(config)


def bits_per_weight(packed: PackedFile) -> float:
    """Return the bits that a weight of a file's matrices takes on average, its scales included."""
    matrices = [tensor for tensor in packed.tensors.values() if tensor.format != "f32"]
    n_weights = sum(tensor.shape[0] * tensor.shape[1] for tensor in matrices)
    return 8 * sum(len(tensor.payload) for tensor in matrices) / n_weights


def _is_read_whole(name: str, config: ModelConfig) -> bool:
    """Of the embedding a token reads one row, unless it is the head as well."""
    return name != "wte.weight" or config.tie_word_embeddings
