"""A model and the payloads of its tensors -> a packed file, whole or not at all.

While it is unfinished it has a journal in the place of its header (journal.py), so that another
process can go on with it.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from quantize.description.config import ModelConfig, config_fields
from quantize.description.formats import LINE_BYTES, Format, MatrixFormat, round_up
from quantize.files.errors import UserError
from quantize.files.partial_file import Claim
from quantize.files.whole_file import SHARED, blaming, resuming_file
from quantize.packed import journal
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
from quantize.packed.payload_writer import PayloadWriter, write_at
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


@dataclass(frozen=True, slots=True)
class Resuming:
    """When a file that another process has begun is gone on with, and ours is left for another.

    source    all that the payloads depend on and the header does not say
    keeps_on  what may be raised without the work being lost, once there is a payload
    on_part   told of unfinished files of the target, with their bytes: "removed", as they are of
              something else; "adopted", to be gone on with if sound; "kept", as we are interrupted
    """

    source: bytes
    keeps_on: tuple[type[BaseException], ...]
    on_part: Callable[[str, Path, int], None]


@dataclass(frozen=True, slots=True)
class PackedPlan:
    """A packed file that is to be written; all is known of it but the payloads.

    entries  every tensor of model.config, in the order of a forward pass
    sources  files that it must not replace
    """

    target: Path
    model: ModelDescription
    entries: Sequence[TensorEntry]
    sources: Sequence[Path] = ()

    def sizes(self) -> list[int]:
        """Return the bytes of tokenizer.json with its padding, then of each payload."""
        payloads = (payload_bytes(entry.format, entry.shape) for entry in self.entries)
        return [round_up(len(self.model.tokenizer_json), LINE_BYTES), *payloads]

    def header(self, hashes: Sequence[str] | None = None) -> bytes:
        """Return length and header, which are equally long without the hashes."""
        sizes = self.sizes()
        header = _header(self.model, self.entries, sizes, hashes or ["0" * N_DIGITS] * len(sizes))
        return len(header).to_bytes(8, "little") + header

    def identity(self, source: bytes) -> str:
        """Return what a file names that is to become this one; source: Resuming.source."""
        return journal.identity_of((self.header(), self.model.tokenizer_json, source))


@contextlib.contextmanager
def packed_writer(plan: PackedPlan, resuming: Resuming | None = None) -> Iterator[PayloadWriter]:
    """A writer to which all payloads are to be added but those that are kept, in order.

    payloads  u8 [payload_bytes(format, shape)] for each entry
    resuming  None: nothing is gone on with or left

    At the end the file takes the target's place. Raises UserError where the target cannot be
    written, holds something else than a packed model, or its disk is too small, and BeingWritten
    while another process writes it. Whatever is raised, here or within, the target stays as it was,
    and no other file is left, but as `resuming` says.
    """
    target = plan.target
    with blaming(target):
        if target.is_symlink():  # the link stays: what it points to is replaced
            target = Path(os.path.realpath(target))
    _judge_target(target, plan.sources)
    blank, (tokenizer_bytes, *sizes) = plan.header(), plan.sizes()
    assert journal.journal_bytes(len(sizes)) <= len(blank)
    identity = plan.identity(resuming.source if resuming else os.urandom(16))
    fits = partial(journal.names, identity=identity)
    with resuming_file(target, mode=SHARED, fits=fits) as claim:
        writer = PayloadWriter(claim.file, target, sizes, len(blank) + tokenizer_bytes)
        try:
            _begin(writer, claim, resuming)
            with blaming(target):
                journal.begin(claim.file, identity)
            tokenizer_hash = _write_tokenizer(claim, len(blank), plan, tokenizer_bytes)
            yield writer
            writer.wait()
            header = plan.header([tokenizer_hash, *(line.sha256 for line in writer.lines)])
            write_at(claim.file, 0, memoryview(header), target)
        except BaseException as error:
            writer.close()
            if resuming and isinstance(error, resuming.keeps_on):
                _leave(writer, claim, resuming)
            raise
        writer.close()


def write_packed_file(
    target: Path,
    model: ModelDescription,
    entries: Sequence[TensorEntry],
    payloads: Iterable[Bytes],
    sources: Sequence[Path] = (),
) -> int:
    """Write a packed file of payloads that are asked for one at a time; return its bytes.

    As PackedPlan and packed_writer say; nothing is left of it if it does not come to its end.
    """
    with packed_writer(PackedPlan(target, model, entries, sources)) as writer:
        for _, payload in zip(entries, payloads, strict=True):
            writer.add(payload)
    return writer.size_bytes


def _begin(writer: PayloadWriter, claim: Claim, resuming: Resuming | None) -> None:
    """Tell what was found, keep what is whole, and make sure that the rest has room."""
    claim.is_kept = claim.is_adopted  # whatever is raised before it is changed
    if resuming:
        for path, n_bytes in claim.removed:
            resuming.on_part("removed", path, n_bytes)
        if claim.is_adopted:
            resuming.on_part("adopted", claim.partial, claim.file_bytes())
            with blaming(claim.partial):
                writer.keep()
    _judge_space(writer, claim)
    claim.is_kept = False


def _write_tokenizer(claim: Claim, start: int, plan: PackedPlan, n_bytes: int) -> str:
    """Write tokenizer.json, padded with zeros; return the SHA-256 of both."""
    content = plan.model.tokenizer_json.ljust(n_bytes, b"\0")
    write_at(claim.file, start, memoryview(content), plan.target)
    return hashlib.sha256(content).hexdigest()


def _leave(writer: PayloadWriter, claim: Claim, resuming: Resuming) -> None:
    claim.is_kept = claim.is_kept or bool(writer.lines)
    if claim.is_kept:
        resuming.on_part("kept", claim.partial, claim.file_bytes())


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


def _judge_target(target: Path, sources: Sequence[Path]) -> None:
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


def _judge_space(writer: PayloadWriter, claim: Claim) -> None:
    """Raise a UserError unless what is still to be written has room."""
    target = writer.target
    with blaming(target):
        need_bytes = writer.size_bytes - claim.file_bytes()
        free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < need_bytes:
        found, need = f"{free_bytes / 1e6:.1f} MB free", f"{need_bytes / 1e6:.1f} MB"
        message = f"cannot write {target}: its disk has {found}, need {need}"
        raise UserError(message, "Free some space, or write to another disk.")
