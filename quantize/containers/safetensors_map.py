"""A safetensors file -> its tensors, memory-mapped, and its metadata; every offset is checked.

    offset 0        n_header: u64, little-endian
    offset 8        the header, n_header bytes of JSON, perhaps padded with spaces:
                    {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets"}, ...}
    offset 8 + n_header: the tensors without holes; data_offsets [start, end] count from here

Format: https://huggingface.co/docs/safetensors, "Format".
"""

import math
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantize.containers.source_tensor import NUMPY_DTYPES, SourceTensor, fits_numpy, view_tensor
from quantize.files.errors import UserError
from quantize.files.input_file import map_input, quoted
from quantize.files.json_object import parse_json_object

# The limit of the safetensors library.
_LARGEST_HEADER_BYTES = 100_000_000
_HINT_DOWNLOAD = "The file is damaged or incomplete; download it again."


def map_safetensors(path: Path) -> tuple[dict[str, SourceTensor], dict[str, str]]:
    """Map a file: its tensors by name, in the order of their data, and its metadata.

    Raises UserError, naming the file, the tensor, what was found and needed, unless the header is
    sound and its tensors fill the rest of the file exactly.
    """
    content = map_input(path)
    n_header = _header_bytes(content, path)
    header = parse_json_object(content[8 : 8 + n_header], f"the header of {path}")
    return view_safetensors(content, n_header, header, path)


def view_safetensors(
    mapped: mmap, n_header: int, header: Mapping[str, object], path: Path
) -> tuple[dict[str, SourceTensor], dict[str, str]]:
    """View the tensors of a mapped file whose header has been parsed; else as map_safetensors."""
    content = np.frombuffer(mapped, np.uint8)
    metadata = _read_metadata(header.get("__metadata__", {}), path)
    entries = sorted(
        _judge_entry(name, fields, path)
        for name, fields in header.items()
        if name != "__metadata__"
    )
    _judge_layout(entries, content.size - 8 - n_header, path)
    tensors = {
        entry.name: view_tensor(
            entry.name, entry.dtype, entry.shape, content, 8 + n_header + entry.start
        )
        for entry in entries
    }
    return tensors, metadata


class _Entry(NamedTuple):
    """One tensor of the header; sorts by its place in the file."""

    start: int
    end: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def _header_bytes(content: mmap, path: Path) -> int:
    if len(content) < 8:
        raise UserError(
            f"{path} is truncated: {len(content)} bytes, need 8 or more", _HINT_DOWNLOAD
        )
    n_header = int.from_bytes(content[:8], "little")
    if content[8:9] != b"{" or n_header > _LARGEST_HEADER_BYTES:
        raise UserError(
            f"{path} is not a safetensors file: found {quoted(content[:16])}, need the "
            f"length of a header (at most {_LARGEST_HEADER_BYTES}) and the header's '{{'",
            "Give a safetensors file or a torch zip; if this should be one, download it again.",
        )
    if 8 + n_header > len(content):
        raise UserError(
            f"{path} is truncated: {len(content)} bytes, need {8 + n_header} for its header alone",
            _HINT_DOWNLOAD,
        )
    return n_header


def _read_metadata(metadata: object, path: Path) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise _invalid(path, "__metadata__", f"is {quoted(metadata)}, need an object of strings")
    for key, text in metadata.items():
        if not isinstance(text, str):
            raise _invalid(path, f"__metadata__ {quoted(key)}", f"is {quoted(text)}, need a string")
    return metadata


def _judge_entry(name: str, fields: object, path: Path) -> _Entry:
    where = f"tensor {quoted(name)}"
    if not isinstance(fields, dict):
        raise _invalid(path, where, f"is {quoted(fields)}, need dtype, shape and data_offsets")
    dtype, shape = fields.get("dtype"), _counts(fields.get("shape"))
    if not isinstance(dtype, str) or dtype not in NUMPY_DTYPES:
        need = ", ".join(NUMPY_DTYPES)
        raise _invalid(path, where, f"has dtype {quoted(dtype)}, need one of {need}")
    itemsize = NUMPY_DTYPES[dtype].itemsize
    if shape is None or not fits_numpy(shape, itemsize):
        found = quoted(fields.get("shape"))
        raise _invalid(path, where, f"has shape {found}, need a list of a few sizes")
    offsets = _counts(fields.get("data_offsets"))
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        found = quoted(fields.get("data_offsets"))
        raise _invalid(path, where, f"has data_offsets {found}, need [start, end]")
    found_bytes, need_bytes = offsets[1] - offsets[0], math.prod(shape) * itemsize
    if found_bytes != need_bytes:
        what = f"has {found_bytes} bytes, need {need_bytes} for {dtype} {list(shape)}"
        raise _invalid(path, where, what)
    return _Entry(offsets[0], offsets[1], name, dtype, shape)


def _counts(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers of 63 bits, none negative, as a tuple; None for anything else."""
    if not isinstance(value, list):
        return None
    if any(type(item) is not int or not 0 <= item < 1 << 63 for item in value):
        return None
    return tuple(value)


def _judge_layout(entries: list[_Entry], size_bytes: int, path: Path) -> None:
    """The sorted entries follow each other without overlap or hole and end where the file ends."""
    end = 0
    for entry in entries:
        if entry.start != end:
            what = "overlaps the tensor before it" if entry.start < end else "leaves a hole"
            what += f": starts at {entry.start}, need {end}"
            raise _invalid(path, f"tensor {quoted(entry.name)}", what)
        end = entry.end
    if end > size_bytes:
        raise UserError(
            f"{path} is truncated: {size_bytes} bytes of tensors, need {end}", _HINT_DOWNLOAD
        )
    if end < size_bytes:
        raise _invalid(path, "the file", f"has {size_bytes} bytes of tensors, need {end}")


def _invalid(path: Path, what: str, problem: str) -> UserError:
    return UserError(f"{path}: {what} {problem}", _HINT_DOWNLOAD)
