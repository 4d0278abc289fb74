"""Names and files -> each packed file or checkpoint hashed whole, with what is damaged in it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_cli.hub.entries import BUNDLED
from codegen_cli.hub.stored.cache import cached_checkpoint, is_snapshot
from codegen_cli.hub.stored.checkpoint_hashes import (
    CheckpointVerification,
    snapshot_of,
    verify_checkpoint,
)
from codegen_cli.machine import places
from codegen_cli.models.local_models import find_local_files, readable_files
from codegen_cli.models.registry import CheckpointModel, KnownModel, PackedModel, resolve
from codegen_cli.terminal import drawing
from quantize.files.errors import UserError
from quantize.packed.container_judge import require_safetensors
from quantize.packed.packed_file import PayloadCheck, read_packed_file
from quantize.packed.packed_file import verify as verify_packed

_NAMED_TENSORS = 4


@dataclass(frozen=True, slots=True)
class Verification:
    """One file read whole; `problem` says why it could not be, `damaged` which payloads are not
    as they were written.
    """

    path: Path
    file_bytes: int
    count: int
    seconds: float
    damaged: Sequence[PayloadCheck] = ()
    problem: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether the whole file is as it was written."""
        return not self.damaged and not self.problem

    @property
    def hint(self) -> str:
        """No command repairs any packed file."""
        return ""

    def lines(self) -> Iterable[str]:
        """Return what to tell: one line if the file is sound, else one for each fault."""
        if self.problem:
            return [f"invalid  {self.problem}"]
        if self.damaged:
            return [
                f"damaged  {self.path}: {check.name}: found SHA-256 {check.found}, "
                f"need {check.need}"
                for check in self.damaged
            ]
        size = f"{self.count} tensors, {self.file_bytes / 1e6:.1f} MB in {self.seconds:.1f} s"
        return [f"sound    {self.path} ({size})"]

    def as_object(self) -> dict[str, Any]:
        """Return what --json writes of it."""
        return {
            "path": str(self.path),
            "is_sound": self.is_sound,
            "bytes": self.file_bytes,
            "seconds": self.seconds,
            "tensors": self.count,
            "damaged": [
                {"tensor": check.name, "found": check.found, "need": check.need}
                for check in self.damaged
            ],
            "problem": self.problem or None,
        }


def files_to_verify(models: Sequence[str]) -> list[Path]:
    """Return the packed files that names and paths mean; without any, all that there are.

    A name without a format means all its packed files, and the directory of its checkpoint in the
    hub's cache. Raises UserError for what is neither.
    """
    if not models:
        return [*(file.path for file in readable_files()), places.bundled_model()]
    return list(dict.fromkeys(path for model in models for path in _files_of(model)))


def _files_of(model: str) -> list[Path]:
    found = resolve(model)
    if isinstance(found, CheckpointModel) and is_snapshot(snapshot_of(found.path)):
        return [snapshot_of(found.path)]
    # A packed file whose first bytes are damaged looks like a checkpoint's: it is judged by name.
    is_named = isinstance(found, PackedModel | CheckpointModel) and found.path == Path(model)
    if is_named and Path(model).is_file():
        return [Path(model)]
    if isinstance(found, CheckpointModel):
        raise UserError(
            f"{model} is not packed",
            "A checkpoint outside the hub's cache states no hashes; pack it: codegen quantize",
        )
    if found.name == BUNDLED:
        return [places.bundled_model()]
    checkpoint = None
    if isinstance(found, KnownModel) and found.format is None:
        checkpoint = cached_checkpoint(found.entry)
        if checkpoint and found.packed is None:
            return [checkpoint]
    return [*(file.path for file in find_local_files(model)), *([checkpoint] if checkpoint else [])]


def verify_path(path: Path) -> Verification | CheckpointVerification:
    """Hash a packed file, or all of a checkpoint's directory."""
    return verify_checkpoint(path) if path.is_dir() else verify_file(path)


def verify_file(path: Path) -> Verification:
    """Hash a packed file, with a bar on a terminal; what is wrong with it is in the result.

    The container is judged by the safetensors library too, which knows nothing of our reader.
    """
    started, count, done_bytes = time.monotonic(), 0, 0
    file_bytes = 0
    try:
        with drawing.progress(path.name, "bytes") as advance:

            def on_payload(check: PayloadCheck) -> None:
                nonlocal count, done_bytes
                count, done_bytes = check.count, done_bytes + check.bytes
                advance(done_bytes, file_bytes)

            file_bytes = path.stat().st_size
            require_safetensors(read_packed_file(path))
            damaged = verify_packed(path, on_payload)
    except UserError as error:
        return Verification(path, file_bytes, 0, time.monotonic() - started, problem=error.message)
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror}"
        return Verification(path, file_bytes, 0, time.monotonic() - started, problem=problem)
    return Verification(path, file_bytes, count, time.monotonic() - started, damaged)


def require_sound(path: Path) -> None:
    """Raise a UserError that names what is damaged unless a packed file is sound."""
    result = verify_file(path)
    if not result.is_sound:
        raise UserError(
            result.problem or f"{path} is damaged: {_named(result.damaged)}",
            "Copy or download the file again.",
        )


def _named(damaged: Sequence[PayloadCheck]) -> str:
    names = [check.name for check in damaged]
    more = len(names) - _NAMED_TENSORS
    return ", ".join(names[:_NAMED_TENSORS]) + (f" and {more} more" if more > 0 else "")
