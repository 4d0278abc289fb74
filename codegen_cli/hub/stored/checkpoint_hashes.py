"""A checkpoint in a hub's cache -> its files compared with the hashes that name them there.

Where the cache has no links (Windows without the right to make them), or a mirror gave other names,
files have no hashes for names: they were compared with the hub's hashes when `codegen download`
fetched them, and cannot be compared again without it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_cli.hub.checkpoint_files import companions, files_of_checkpoint
from codegen_cli.hub.stored import cache as hub_cache
from codegen_cli.hub.stored.content_hash import HashCheck, check_hash
from codegen_cli.terminal import console, drawing
from quantize.files.errors import UserError

NOT_COMPARED = "not compared: the cache has no hash for it"


@dataclass(frozen=True, slots=True)
class CheckpointVerification:
    """A checkpoint read whole: what is damaged, and the files whose hashes are not known."""

    directory: Path
    file_bytes: int
    count: int
    seconds: float
    damaged: tuple[HashCheck, ...]
    unknown: tuple[Path, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no file differs from the hash that names it."""
        return not self.damaged

    @property
    def hint(self) -> str:
        """The command that repairs what is damaged, "" if nothing is."""
        return "" if self.is_sound else hub_cache.repair_hint(self.directory)

    def lines(self) -> list[str]:
        """Return what to tell: one line if all is sound, else one for each fault."""
        lines = [f"damaged  {check.path}: {check.difference()}" for check in self.damaged]
        lines += [f"unknown  {path}: {NOT_COMPARED}" for path in self.unknown]
        size = f"{self.count} files, {self.file_bytes / 1e6:.1f} MB in {self.seconds:.1f} s"
        return lines or [f"sound    {self.directory} ({size})"]

    def as_object(self) -> dict[str, Any]:
        """Return what --json writes of it."""
        return {
            "path": str(self.directory),
            "is_sound": self.is_sound,
            "bytes": self.file_bytes,
            "seconds": self.seconds,
            "files": self.count,
            "damaged": [
                {"file": check.path.name, "found": check.found, "need": check.need}
                for check in self.damaged
            ],
            "unknown": [path.name for path in self.unknown],
        }


def verify_checkpoint(
    source: Path, on_bytes: Callable[[], None] = lambda: None
) -> CheckpointVerification:
    """Compare the files of a snapshot, or one weight file and what is beside it, with their hashes.

    There is a bar on a terminal; on_bytes is called after each piece, and may raise. Raises
    UserError for a file that cannot be read.
    """
    started = time.monotonic()
    files = _files(source)
    needs = {path: hub_cache.hash_of_name(path) for path in files}
    file_bytes, done_bytes = sum(path.stat().st_size for path in files), 0
    checks = []
    with drawing.progress(f"checking {hub_cache.repository_of(files[0].parent)}") as advance:

        def on_piece(n_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += n_bytes
            advance(done_bytes, file_bytes)
            on_bytes()

        for path, need in needs.items():
            if need:
                checks.append(check_hash(path, need, on_piece))
    return CheckpointVerification(
        directory=files[0].parent,
        file_bytes=file_bytes,
        count=len(files),
        seconds=time.monotonic() - started,
        damaged=tuple(check for check in checks if not check.is_sound),
        unknown=tuple(path for path, need in needs.items() if not need),
    )


def require_as_published(source: Path, on_bytes: Callable[[], None]) -> None:
    """Raise a UserError that names what is damaged in a checkpoint of a hub's cache.

    A checkpoint from elsewhere states no hashes, and is taken as it is. on_bytes as above.
    """
    if not hub_cache.is_snapshot(snapshot_of(source)):
        return
    result = verify_checkpoint(source, on_bytes)
    if result.unknown:
        names = ", ".join(path.name for path in result.unknown)
        console.note(f"{names} in {result.directory}: {NOT_COMPARED}")
    if not result.is_sound:
        faults = (f"{check.path} is damaged: {check.difference()}" for check in result.damaged)
        raise UserError("; ".join(faults), result.hint)


def snapshot_of(source: Path) -> Path:
    """Return the directory of a checkpoint, itself or a weight file in it; links are followed."""
    return (source if source.is_dir() else source.parent).resolve()


def _files(source: Path) -> list[Path]:
    """Return the files that are read of a checkpoint, those that are there."""
    directory = snapshot_of(source)
    try:
        if source.is_dir():
            names = files_of_checkpoint(directory) or ["config.json"]
        else:
            names = [*companions(path.name for path in directory.iterdir()), source.name]
        return [directory / name for name in names if (directory / name).is_file()]
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}") from error
    except UserError as error:
        raise UserError(error.message, hub_cache.repair_hint(directory)) from error
