"""A model and the payloads of its tensors -> a packed file, whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantize.description.config import ModelConfig, config_fields
from quantize.description.formats import LINE_BYTES, Format, MatrixFormat, round_up
from quantize.files.errors import UserError
from quantize.files.whole_file import SHARED, blaming, replacing, write_all
from quantize.packed.layout import Shape, payload_bytes
from quantize.packed.packed_header import (
    FORMAT_VERSION,
    HASH_START,
    MAGIC,
    N_DIGITS,
    TOKENIZER,
    header_hash,
    is_packed_file,
)
from quantize.rounding.groups import Bytes

_HINT_OTHER = "Choose another target."


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as a packed file declares it; `shape` is without padding."""

    name: str
    format: Format
    shape: Shape


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a packed file says of its model beside the tensors.

    format  of the matrices, except those that a mixed file keeps finer: int8, int4 or f16
    name    the model's name, perhaps empty

    tokenizer_settings  what tokenizer_json has no place for: CheckpointTokenizer.settings
    """

    config: ModelConfig
    format: MatrixFormat
    name: str
    tokenizer_json: bytes = field(repr=False)
    provenance: Mapping[str, str]
    tokenizer_settings: Mapping[str, object] = field(default_factory=dict)


def write_packed_file(
    target: Path,
    model: ModelDescription,
    entries: Sequence[TensorEntry],
    payloads: Iterable[Bytes],
    sources: Sequence[Path] = (),
) -> int:
    """Write a packed file and return its bytes; an existing target is replaced at the very end.

    entries   every tensor of model.config, in the order of a forward pass
    payloads  u8 [payload_bytes(format, shape)] for each entry, asked for one at a time
    sources   files that the target must not be

    Raises UserError where the target cannot be written, holds something else than a packed model,
    or its disk is too small. Whatever is raised, here or by `payloads`, the target stays as it was
    and no other file is left.
    """
    with blaming(target):
        if target.is_symlink():  # the link stays: what it points to is replaced
            target = Path(os.path.realpath(target))
    sizes = [round_up(len(model.tokenizer_json), LINE_BYTES)]
    sizes += [payload_bytes(entry.format, entry.shape) for entry in entries]
    # Hashes are of one length, so the header's length is known before they are.
    data_start = 8 + len(_header(model, entries, sizes, ["0" * N_DIGITS] * len(sizes)))
    _judge_target(target, sources, data_start + sum(sizes))
    with replacing(target, mode=SHARED) as file:
        file.seek(data_start)
        hashes = []
        for content, size in zip(_contents(model, payloads), sizes, strict=True):
            assert len(content) == size
            hashes.append(hashlib.sha256(content).hexdigest())
            write_all(file, content, target)
        header = _header(model, entries, sizes, hashes)
        file.seek(0)
        write_all(file, memoryview(len(header).to_bytes(8, "little") + header), target)
    return data_start + sum(sizes)


def _header(
    model: ModelDescription,
    entries: Sequence[TensorEntry],
    sizes: Sequence[int],
    hashes: Sequence[str],
) -> bytes:
    """Return the header's bytes; sizes and hashes: of tokenizer.json, then of the entries."""
    shapes = [(len(model.tokenizer_json),), *(entry.shape for entry in entries)]
    formats = ["json", *(entry.format for entry in entries)]
    declared, offsets, end = {}, {}, 0
    for i, name in enumerate((TOKENIZER, *(entry.name for entry in entries))):
        declared[name] = {"format": formats[i], "shape": shapes[i], "sha256": hashes[i]}
        start, end = end, end + sizes[i]
        offsets[name] = {"dtype": "U8", "shape": [sizes[i]], "data_offsets": [start, end]}
    metadata = {
        "format": "codegen-packed",
        "format_version": str(FORMAT_VERSION),
        "header_sha256": "0" * N_DIGITS,
        # A directory's name may be no Unicode text, and then no safetensors reader would take it.
        "model_name": model.name.encode(errors="backslashreplace").decode(),
        "weight_format": model.format,
        "config": _compact(config_fields(model.config)),
        "tensors": _compact(declared),
        "provenance": _compact(dict(model.provenance)),
    }
    if model.tokenizer_settings:  # else the header is as it always was
        metadata["tokenizer_settings"] = _compact(dict(model.tokenizer_settings))
    header = _compact({"__metadata__": metadata, **offsets}).encode("ascii")
    assert header.startswith(MAGIC)
    header += b" " * (-(8 + len(header)) % LINE_BYTES)
    digits = header_hash(header).encode("ascii")
    return header[:HASH_START] + digits + header[HASH_START + N_DIGITS :]


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _contents(model: ModelDescription, payloads: Iterable[Bytes]) -> Iterator[memoryview]:
    """Yield tokenizer.json padded with zeros, then the payloads."""
    padded_bytes = round_up(len(model.tokenizer_json), LINE_BYTES)
    yield memoryview(model.tokenizer_json.ljust(padded_bytes, b"\0"))
    for payload in payloads:
        yield payload.data


def _judge_target(target: Path, sources: Sequence[Path], need_bytes: int) -> None:
    with blaming(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists():
            if not target.is_file():
                raise UserError(f"cannot write {target}: it is no regular file", _HINT_OTHER)
            if any(target.samefile(source) for source in sources):
                raise UserError(f"cannot write {target}: it is being read from", _HINT_OTHER)
            if target.stat().st_size and not is_packed_file(target):
                message = f"{target} exists and is not a packed model"
                raise UserError(message, "Choose another target, or remove that file first.")
        free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < need_bytes:
        found, need = f"{free_bytes / 1e6:.1f} MB free", f"{need_bytes / 1e6:.1f} MB"
        message = f"cannot write {target}: its disk has {found}, need {need}"
        raise UserError(message, "Free some space, or write to another disk.")
