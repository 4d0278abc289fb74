"""A packed model file -> its config, tokenizer and payloads: checked, then memory-mapped.

Version 1 (docs/format.md draws it whole) is a safetensors container:

    offset 0   u64, little-endian: bytes of the header; the data starts at a multiple of 64
    offset 8   the header: {"__metadata__":{"format":"codegen-packed","format_version":"1",
               "header_sha256":"...", ...}, name: offsets, ...}, JSON padded with spaces
    data       tokenizer.json, then each tensor's payload (layout.py) in the order of a forward
               pass; all U8, without holes, each padded with zeros to a multiple of 64 bytes

header_sha256 is the SHA-256 of the header with its own 64 digits replaced by zeros.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import NoReturn, cast

from quantize.blocks import Bytes, Format
from quantize.config import ModelConfig, parse_config
from quantize.errors import UserError
from quantize.input_file import map_input, quoted, shown, unreadable
from quantize.json_object import parse_json_object
from quantize.layout import ALIGNMENT, Shape, payload_bytes, round_up
from quantize.safetensors_map import map_safetensors
from quantize.source_tensor import SourceTensor
from quantize.tensor_map import TensorSpec, tensor_specs

FORMAT_VERSION = 1
TOKENIZER = "tokenizer.json"
MATRIX_FORMATS = ("int8", "int4", "f16")

MAGIC = b'{"__metadata__":{"format":"codegen-packed","format_version":"'
HASH_START = len(MAGIC) + len('1","header_sha256":"')
N_DIGITS = 64

_HINT_DAMAGED = "The file is damaged or incomplete; quantize the checkpoint again."
_NAMED_PROBLEMS = 4
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor in a packed file.

    payload  u8 [payload_bytes(format, shape)], a read-only view of the mapped file; its address is
             a multiple of 64
    sha256   of the payload, as the file states it
    """

    name: str
    format: Format
    shape: Shape
    payload: Bytes = field(repr=False, compare=False)
    sha256: str


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A packed file with a sound header: the model and where its tensors are.

    format   of the matrices, except those that a mixed file keeps finer: int8, int4 or f16
    tensors  by name, in the order of a forward pass; a tied model has no lm_head.weight
    name     the model's name, perhaps empty

    tokenizer_settings  what tokenizer_json has no place for, not judged yet
    """

    path: Path
    config: ModelConfig
    format: Format
    tokenizer_json: bytes = field(repr=False)
    tensors: dict[str, PackedTensor]
    provenance: dict[str, str]
    name: str
    tokenizer_sha256: str = field(repr=False)
    tokenizer_settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PayloadCheck:
    """One payload read whole and hashed: the index-th of count, counted from 1.

    found, need  SHA-256 of its bytes, padding included, and the one that the header states
    """

    index: int
    count: int
    name: str
    bytes: int
    found: str
    need: str

    @property
    def is_sound(self) -> bool:
        """Whether the payload is as it was written."""
        return self.found == self.need


def is_packed_file(path: Path) -> bool:
    """Whether this is a readable regular file that begins as packed files of any version do."""
    try:
        content = map_input(path)
    except UserError:
        return False
    return content[8 : 8 + len(MAGIC)].tobytes() == MAGIC


def read_packed_file(path: Path) -> PackedFile:
    """Map a packed file once all that its header says has been checked.

    Raises UserError, naming the file, what was found and needed, for any other kind of file,
    another version, a header that is not as it was written, a truncated file, or tensors that are
    not exactly those of the config.
    """
    _judge_header(map_input(path), path)
    contents, metadata = map_safetensors(path)
    config = parse_config(_json(metadata, "config", path), f"the config in {path}")
    declared = _json(metadata, "tensors", path)
    specs = tensor_specs(config)
    names = [TOKENIZER, *(spec.name for spec in specs)]
    for found in (list(contents), list(declared)):
        _judge_names(found, names, path)
    weight_format = _text(metadata, "weight_format", path)
    if weight_format not in MATRIX_FORMATS:
        _refuse(path, "weight_format", weight_format, " or ".join(MATRIX_FORMATS))
    tokenizer_json, tokenizer_sha256 = _tokenizer(declared[TOKENIZER], contents[TOKENIZER], path)
    return PackedFile(
        path=path,
        config=config,
        format=cast(Format, weight_format),
        tokenizer_json=tokenizer_json,
        tensors={
            spec.name: _packed_tensor(spec, declared[spec.name], contents[spec.name], path)
            for spec in specs
        },
        provenance={key: str(text) for key, text in _json(metadata, "provenance", path).items()},
        name=_text(metadata, "model_name", path),
        tokenizer_sha256=tokenizer_sha256,
        tokenizer_settings=_tokenizer_settings(metadata, path),
    )


def verify(
    path: Path, on_payload: Callable[[PayloadCheck], None] = lambda check: None
) -> list[PayloadCheck]:
    """Hash tokenizer.json and every tensor of a packed file; return those that are damaged.

    Reading the header has hashed the header, and there are no holes: no bit of the file is left
    out. Calls on_payload after each payload. Raises UserError as read_packed_file does, and where
    the disk cannot be read.
    """
    packed = read_packed_file(path)
    payloads = [
        (TOKENIZER, round_up(len(packed.tokenizer_json), ALIGNMENT), packed.tokenizer_sha256)
    ]
    payloads += [(each.name, each.payload.size, each.sha256) for each in packed.tensors.values()]
    damaged = []
    # Read, not mapped: where a disk fails, reading is an error and a mapped page ends the process.
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(-sum(size for _, size, _ in payloads), os.SEEK_END)
            for index, (name, size_bytes, need) in enumerate(payloads, start=1):
                found = _hash_next(file, size_bytes)
                check = PayloadCheck(index, len(payloads), name, size_bytes, found, need)
                if not check.is_sound:
                    damaged.append(check)
                on_payload(check)
    except OSError as error:
        raise unreadable(path, error) from error
    return damaged


def _hash_next(file: FileIO, size_bytes: int) -> str:
    """Return the SHA-256 of the next bytes; a piece at a time, so that Ctrl-C waits for none."""
    digest = hashlib.sha256()
    while size_bytes and (piece := file.read(min(size_bytes, _PIECE_BYTES))):
        digest.update(piece)
        size_bytes -= len(piece)
    return digest.hexdigest()


def header_hash(header: bytes) -> str:
    """The SHA-256 of a header, whatever its own 64 digits are, in 64 hexadecimal digits."""
    digest = hashlib.sha256(header[:HASH_START] + b"0" * N_DIGITS)
    digest.update(header[HASH_START + N_DIGITS :])
    return digest.hexdigest()


def _judge_header(content: Bytes, path: Path) -> None:
    """Check magic, version, length and hash of the header, in this order."""
    start = content[: 8 + len(MAGIC) + 16].tobytes()
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
            "Upgrade codegen-cli, or quantize the checkpoint again.",
        )
    n_header = int.from_bytes(start[:8], "little")
    if 8 + n_header > content.size:
        need = f"need {8 + n_header} for its header alone"
        raise UserError(f"{path} is truncated: {content.size} bytes, {need}", _HINT_DAMAGED)
    header = content[8 : 8 + n_header].tobytes()
    stated = header[HASH_START : HASH_START + N_DIGITS]
    actual = header_hash(header)
    if stated != actual.encode("ascii"):
        _refuse(path, "SHA-256 of the header", actual, quoted(stated))
    if (8 + n_header) % ALIGNMENT:
        _refuse(path, "start of the data", 8 + n_header, f"a multiple of {ALIGNMENT}")


def _text(metadata: Mapping[str, str], key: str, path: Path) -> str:
    if key not in metadata:
        _refuse(path, f"metadata {key}", None, "a text")
    return metadata[key]


def _json(metadata: Mapping[str, str], key: str, path: Path) -> dict[str, object]:
    text = _text(metadata, key, path).encode("utf-8", "replace")
    return parse_json_object(text, f"the metadata {key} of {path}")


def _tokenizer_settings(metadata: Mapping[str, str], path: Path) -> dict[str, object]:
    """What most files do not have, and the first version 1 readers pass over."""
    key = "tokenizer_settings"
    return _json(metadata, key, path) if key in metadata else {}


def _judge_names(found: list[str], need: list[str], path: Path) -> None:
    if found == need:
        return
    known, present = set(need), set(found)
    problems = [f"missing {quoted(name)}" for name in need if name not in present]
    problems += [f"surplus {quoted(name)}" for name in found if name not in known]
    named = ", ".join(problems[:_NAMED_PROBLEMS]) or "they are in another order"
    raise UserError(f"{path} does not hold the tensors of its config: {named}", _HINT_DAMAGED)


def _packed_tensor(
    spec: TensorSpec, declared: object, content: SourceTensor, path: Path
) -> PackedTensor:
    formats = MATRIX_FORMATS if spec.kind == "matrix" else ("f32",)
    format, sha256 = _judge_declared(declared, spec.name, formats, spec.shape, path)
    need_bytes = payload_bytes(cast(Format, format), spec.shape)
    payload = _judge_content(content, need_bytes, path)
    return PackedTensor(spec.name, cast(Format, format), spec.shape, payload, sha256)


def _tokenizer(declared: object, content: SourceTensor, path: Path) -> tuple[bytes, str]:
    """The bytes of tokenizer.json without their padding, and the hash stated for them with it."""
    shape = declared.get("shape") if isinstance(declared, dict) else None
    if not (isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int):
        _refuse(path, TOKENIZER, declared, "a shape of one size")
    _, sha256 = _judge_declared(declared, TOKENIZER, ("json",), tuple(shape), path)
    padded = _judge_content(content, round_up(shape[0], ALIGNMENT), path)
    return padded[: shape[0]].tobytes(), sha256


def _judge_declared(
    declared: object, name: str, formats: tuple[str, ...], shape: Shape, path: Path
) -> tuple[str, str]:
    """Check what the metadata says of a tensor; return its format and hash."""
    fields = declared if isinstance(declared, dict) else {}
    format, found_shape, sha256 = (fields.get(key) for key in ("format", "shape", "sha256"))
    if format not in formats:
        _refuse(path, f"format of {name}", format, " or ".join(formats))
    if found_shape != list(shape):
        _refuse(path, f"shape of {name}", found_shape, list(shape))
    if not isinstance(sha256, str) or len(sha256) != N_DIGITS:
        _refuse(path, f"sha256 of {name}", sha256, "64 digits")
    return format, sha256


def _judge_content(content: SourceTensor, need_bytes: int, path: Path) -> Bytes:
    if content.dtype != "U8" or content.shape != (need_bytes,):
        found = f"{content.dtype} {list(content.shape)}"
        _refuse(path, f"payload of {content.name}", found, f"U8 [{need_bytes}]")
    return cast(Bytes, content.data)


def _refuse(path: Path, what: str, found: object, need: object) -> NoReturn:
    found_text = shown(found) if isinstance(found, str) else quoted(found)
    raise UserError(f"{path}: {what}: found {found_text[:120]}, need {need}", _HINT_DAMAGED)
