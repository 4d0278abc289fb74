"""A packed model file -> its config, tokenizer and payloads: checked, then memory-mapped.

packed_header.py shows the container. Its data is tokenizer.json, then each tensor's payload
(layout.py) in the order of a forward pass; all U8, without holes, each padded with zeros to a
multiple of 64 bytes.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import cast

from quantize.containers.safetensors_map import view_safetensors
from quantize.containers.source_tensor import SourceTensor
from quantize.description.tensor_map import TensorSpec, tensor_specs
from quantize.files.errors import UserError
from quantize.files.input_file import quoted, unreadable
from quantize.packed.layout import ALIGNMENT, Shape, payload_bytes, round_up
from quantize.packed.packed_header import (
    HINT_DAMAGED,
    MATRIX_FORMATS,
    TOKENIZER,
    PackedHeader,
    PackedText,
    config_in,
    format_in,
    judge_declared,
    judge_tokenizer_entry,
    metadata_json,
    metadata_text,
    read_packed_header,
    refuse,
    tokenizer_settings_in,
)
from quantize.rounding.blocks import Bytes, Format

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedFile(PackedText):
    """A packed file with a sound header: the model and where its tensors are.

    tensors  by name, in the order of a forward pass; a tied model has no lm_head.weight
    name     the model's name, perhaps empty
    """

    format: Format
    tensors: dict[str, PackedTensor]
    provenance: dict[str, str]
    name: str


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


def read_packed_file(path: Path) -> PackedFile:
    """Map a packed file once all that its header says has been checked.

    Raises UserError, naming the file, what was found and needed, for any other kind of file,
    another version, a header that is not as it was written, a truncated file, or tensors that are
    not exactly those of the config.
    """
    return packed_file(read_packed_header(path))


def packed_file(header: PackedHeader) -> PackedFile:
    """Return the model of a packed file whose header has been read; raises as above."""
    path, n_header = header.path, header.n_bytes
    if (8 + n_header) % ALIGNMENT:
        refuse(path, "start of the data", 8 + n_header, f"a multiple of {ALIGNMENT}")
    contents, metadata = view_safetensors(header.content, n_header, header.fields, path)
    config = config_in(metadata, path)
    declared = metadata_json(metadata, "tensors", path)
    specs = tensor_specs(config)
    names = [TOKENIZER, *(spec.name for spec in specs)]
    for found in (list(contents), list(declared)):
        _judge_names(found, names, path)
    format = format_in(metadata, path)
    tokenizer_bytes, tokenizer_sha256 = judge_tokenizer_entry(declared, path)
    padded = _judge_content(contents[TOKENIZER], round_up(tokenizer_bytes, ALIGNMENT), path)
    provenance = metadata_json(metadata, "provenance", path)
    return PackedFile(
        path=path,
        config=config,
        header_sha256=header.sha256,
        format=cast(Format, format),
        tokenizer_json=padded[:tokenizer_bytes].tobytes(),
        tensors={
            spec.name: _packed_tensor(spec, declared[spec.name], contents[spec.name], path)
            for spec in specs
        },
        provenance={key: str(text) for key, text in provenance.items()},
        name=metadata_text(metadata, "model_name", path),
        tokenizer_sha256=tokenizer_sha256,
        tokenizer_settings=tokenizer_settings_in(metadata, path),
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


def _judge_names(found: list[str], need: list[str], path: Path) -> None:
    if found == need:
        return
    known, present = set(need), set(found)
    problems = [f"missing {quoted(name)}" for name in need if name not in present]
    problems += [f"surplus {quoted(name)}" for name in found if name not in known]
    named = ", ".join(problems[:_NAMED_PROBLEMS]) or "they are in another order"
    raise UserError(f"{path} does not hold the tensors of its config: {named}", HINT_DAMAGED)


def _packed_tensor(
    spec: TensorSpec, declared: object, content: SourceTensor, path: Path
) -> PackedTensor:
    formats = MATRIX_FORMATS if spec.kind == "matrix" else ("f32",)
    format, sha256 = judge_declared(declared, spec.name, formats, spec.shape, path)
    need_bytes = payload_bytes(cast(Format, format), spec.shape)
    payload = _judge_content(content, need_bytes, path)
    return PackedTensor(spec.name, cast(Format, format), spec.shape, payload, sha256)


def _judge_content(content: SourceTensor, need_bytes: int, path: Path) -> Bytes:
    if content.dtype != "U8" or content.shape != (need_bytes,):
        found = f"{content.dtype} {list(content.shape)}"
        refuse(path, f"payload of {content.name}", found, f"U8 [{need_bytes}]")
    return cast(Bytes, content.data)
