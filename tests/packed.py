"""A small packed file of random numbers, for tests of what is done with such files."""

from pathlib import Path

import numpy as np
from checkpoints import small_config

from quantize.description.config import parse_config
from quantize.description.tensor_map import tensor_specs
from quantize.packed.layout import payload_bytes
from quantize.packed.packed_writer import ModelDescription, TensorEntry, write_packed_file


def write_packed(
    path: Path, format: str = "int8", *, name: str = "tiny", seed: int = 3, **changes: object
) -> Path:
    """Write a packed file of a small config with changes; another seed gives other weights."""
    config = parse_config(small_config(**changes), "a test")
    model = ModelDescription(config, format, name, b'{"version": "1.0"}', {"source": "a test"})
    entries = [
        TensorEntry(spec.name, format if spec.kind == "matrix" else "f32", spec.shape)
        for spec in tensor_specs(config)
    ]
    random = np.random.RandomState(seed)
    sizes = [payload_bytes(entry.format, entry.shape) for entry in entries]
    path.parent.mkdir(parents=True, exist_ok=True)
    payloads = (random.randint(0, 256, size).astype(np.uint8) for size in sizes)
    write_packed_file(path, model, entries, payloads)
    return path


def flip_bit(path: Path, offset: int) -> None:
    """Flip the lowest bit of one byte of a file; a negative offset counts from its end."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
