"""A packed model file -> its header, checked by its hash, and all that is needed to read text.

Version 1 (docs/format.md draws it whole) is a safetensors container:

    offset 0   u64, little-endian: bytes of the header; the data starts at a multiple of 64
    offset 8   the header: {"__metadata__":{"format":"codegen-packed","format_version":"1",
               "header_sha256":"...", ...}, name: offsets, ...}, JSON padded with spaces
    data       tokenizer.json, then each tensor's payload (packed_file.py)

header_sha256 is the SHA-256 of the header with its own 64 digits replaced by zeros.

NumPy is not imported here, so that a run can begin with its prompt while NumPy is being loaded.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import NamedTuple, NoReturn

from quantize.description.config import ModelConfig, parse_config
from quantize.files.errors import UserError
from quantize.files.input_file import map_input, quoted, shown
from quantize.files.json_object import parse_json_object

FORMAT_VERSION = 1
TOKENIZER = "tokenizer.json"
MATRIX_FORMATS = ("int8", "int4", "f16")

MAGIC = b'{"__metadata__":{"format":"codegen-packed","format_version":"'
HASH_START = len(MAGIC) + len('1","header_sha256":"')
N_DIGITS = 64

_LARGEST_HEADER_BYTES = 100_000_000  # of any safetensors file; the 350M shape has 40 KB

HINT_DAMAGED = "The file is damaged or incomplete; quantize the checkpoint again."


class PackedHeader(NamedTuple):
    """A mapped packed file whose header is as it was written; what it says is not judged yet.

    sha256  of the header, which states the hash of all else: it names what the file holds
    fields  the header's JSON
    """

    path: Path
    content: mmap
    n_bytes: int
    sha256: str
    fields: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedText:
    """What a packed file has for text and ids; of its tensors nothing is known yet.

    format              of the matrices, except those that a mixed file keeps finer: one of
                        MATRIX_FORMATS
    header_sha256       PackedHeader.sha256
    tokenizer_sha256    of the bytes of tokenizer.json and their padding, as the file states it
    tokenizer_settings  what tokenizer_json has no place for, not judged yet
    """

    path: Path
    config: ModelConfig
    format: str
    header_sha256: str = field(repr=False)
    tokenizer_json: bytes = field(repr=False)
    tokenizer_sha256: str = field(repr=False)
    tokenizer_settings: dict[str, object] = field(default_factory=dict)


def is_packed_file(path: Path) -> bool:
    """Whether this is a readable regular file that begins as packed files of any version do."""
    try:
        content = map_input(path)
    except UserError:
        return False
    return content[8 : 8 + len(MAGIC)] == MAGIC


def read_packed_header(path: Path) -> PackedHeader:
    """Map a packed file and read its header.

    Raises UserError as packed_file.read_packed_file does, for what it reads.
    """
    content = map_input(path)
    n_bytes, sha256 = _judge_header(content, path)
    fields = parse_json_object(content[8 : 8 + n_bytes], f"the header of {path}")
    return PackedHeader(path=path, content=content, n_bytes=n_bytes, sha256=sha256, fields=fields)


def packed_text(header: PackedHeader) -> PackedText:
    """Return what a packed file has for text, before its tensors are looked at; errors as above."""
    path, metadata, start = header.path, header.fields.get("__metadata__"), 8 + header.n_bytes
    if not isinstance(metadata, dict):
        refuse(path, "__metadata__", metadata, "an object of strings")
    n_bytes, sha256 = judge_tokenizer_entry(metadata_json(metadata, "tensors", path), path)
    if start + n_bytes > len(header.content):
        raise UserError(
            f"{path} is truncated: {len(header.content)} bytes, "
            f"need {start + n_bytes} for {TOKENIZER}",
            HINT_DAMAGED,
        )
    return PackedText(
        path=path,
        config=config_in(metadata, path),
        format=format_in(metadata, path),
        header_sha256=header.sha256,
        tokenizer_json=header.content[start : start + n_bytes],
        tokenizer_sha256=sha256,
        tokenizer_settings=tokenizer_settings_in(metadata, path),
    )


def header_hash(header: bytes) -> str:
    """The SHA-256 of a header, whatever its own 64 digits are, in 64 hexadecimal digits."""
    digest = hashlib.sha256(header[:HASH_START] + b"0" * N_DIGITS)
    digest.update(header[HASH_START + N_DIGITS :])
    return digest.hexdigest()


def _judge_header(content: mmap, path: Path) -> tuple[int, str]:
    """Check magic, version, length and hash of the header, in this order; return the last two."""
    start = content[: 8 + len(MAGIC) + 16]
    if start[8 : 8 + len(MAGIC)] != MAGIC:
        found = quoted(start[8:40])
        raise UserError(
            f"{path} is not a packed model: found {found}, need {quoted(MAGIC[:47])}",
            "Give a file that `codegen quantize` has written.",
        )
    version = start[8 + len(MAGIC) :].split(b'"')[0].decode("ascii", "replace")
    if version != str(FORMAT_VERSION):
        raise UserError(
            f"{path} is packed in format version: found {shown(version)}, need {FORMAT_VERSION}",
            "Upgrade codegen-complete, or quantize the checkpoint again.",
        )
    n_header = int.from_bytes(start[:8], "little")
    if 8 + n_header > len(content):
        need = f"need {8 + n_header} for its header alone"
        raise UserError(f"{path} is truncated: {len(content)} bytes, {need}", HINT_DAMAGED)
    if n_header > _LARGEST_HEADER_BYTES:
        refuse(path, "bytes of the header", n_header, f"at most {_LARGEST_HEADER_BYTES}")
    header = content[8 : 8 + n_header]
    stated = header[HASH_START : HASH_START + N_DIGITS]
    actual = header_hash(header)
    if stated != actual.encode("ascii"):
        refuse(path, "SHA-256 of the header", actual, quoted(stated))
    return n_header, actual


def metadata_text(metadata: Mapping[str, object], key: str, path: Path) -> str:
    """Return a text of the header's metadata; UserError if it is not there."""
    text = metadata.get(key)
    if not isinstance(text, str):
        refuse(path, f"metadata {key}", text, "a text")
    return text


def metadata_json(metadata: Mapping[str, object], key: str, path: Path) -> dict[str, object]:
    """Return the JSON object that a text of the metadata holds; UserError if it holds none."""
    text = metadata_text(metadata, key, path).encode("utf-8", "replace")
    return parse_json_object(text, f"the metadata {key} of {path}")


def config_in(metadata: Mapping[str, object], path: Path) -> ModelConfig:
    """Return the config, every field of it checked."""
    return parse_config(metadata_json(metadata, "config", path), f"the config in {path}")


def format_in(metadata: Mapping[str, object], path: Path) -> str:
    """Return the format of the matrices, one of MATRIX_FORMATS."""
    format = metadata_text(metadata, "weight_format", path)
    if format not in MATRIX_FORMATS:
        refuse(path, "weight_format", format, " or ".join(MATRIX_FORMATS))
    return format


def tokenizer_settings_in(metadata: Mapping[str, object], path: Path) -> dict[str, object]:
    """Return what most files do not have, and the first version 1 readers pass over."""
    key = "tokenizer_settings"
    return metadata_json(metadata, key, path) if key in metadata else {}


def judge_tokenizer_entry(declared: Mapping[str, object], path: Path) -> tuple[int, str]:
    """Return the bytes of tokenizer.json without its padding, and the hash stated for all of it.

    declared  what the metadata say of each tensor
    """
    entry = declared.get(TOKENIZER)
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not (isinstance(shape, list) and len(shape) == 1 and _is_size(shape[0])):
        refuse(path, TOKENIZER, entry, "a shape of one size")
    _, sha256 = judge_declared(entry, TOKENIZER, ("json",), tuple(shape), path)
    return shape[0], sha256


def judge_declared(
    declared: object, name: str, formats: tuple[str, ...], shape: tuple[int, ...], path: Path
) -> tuple[str, str]:
    """Check what the metadata say of a tensor; return its format and hash."""
    fields = declared if isinstance(declared, dict) else {}
    format, found_shape, sha256 = (fields.get(key) for key in ("format", "shape", "sha256"))
    if format not in formats:
        refuse(path, f"format of {name}", format, " or ".join(formats))
    if found_shape != list(shape):
        refuse(path, f"shape of {name}", found_shape, list(shape))
    if not isinstance(sha256, str) or len(sha256) != N_DIGITS:
        refuse(path, f"sha256 of {name}", sha256, "64 digits")
    return format, sha256


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0


def refuse(path: Path, what: str, found: object, need: object) -> NoReturn:
    """Raise the UserError for a part of a packed file that is not as it must be."""
    found_text = shown(found) if isinstance(found, str) else quoted(found)
    raise UserError(f"{path}: {what}: found {found_text[:120]}, need {need}", HINT_DAMAGED)
