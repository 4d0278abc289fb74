"""Hub cache, models directory and our cache -> what each kind of file takes on disk, and where."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codegen_cli.hub.stored import cache as hub_cache
from codegen_cli.hub.stored.unfinished import checkpoint_repositories
from codegen_cli.machine import places
from codegen_cli.machine.disk_bytes import allocated_bytes, files_below
from codegen_cli.machine.places import NoHome

Kind = Literal[
    "checkpoint", "download", "packed", "unfinished", "copy", "kernels", "triton", "other"
]
# Of the folders in our cache; what lies in another is "other".
_FOLDERS: dict[str, Kind] = {"packed": "copy", "kernels": "kernels", "triton": "triton"}


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What one kind of file takes in one directory and below it.

    kind   checkpoint: CodeGen's in the hub's cache; download: parts of such, packed: models;
           unfinished: parts of packed files; copy: checkpoints packed to be run as they are;
           kernels, triton: compiled code; other: what else lies in our cache
    count  files; of checkpoints, their revisions
    bytes  a file with several names, such as a snapshot's link to its blob, is counted once
    """

    kind: Kind
    directory: Path
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A file, and what it is a part of: itself, or a checkpoint's snapshot."""

    kind: Kind
    directory: Path
    file: Path
    unit: Path | None


def disk_use() -> list[DiskUse]:
    """Return what there is, by kind and directory; what cannot be read is not there."""
    seen: set[tuple[int, int]] = set()
    sizes: dict[tuple[Kind, Path], int] = {}
    units: dict[tuple[Kind, Path], set[Path]] = {}
    for found in (*_in_hub_cache(), *_in_our_directories()):
        try:
            status = found.file.stat()
        except OSError:  # a link to nothing, or it has gone
            continue
        key = (found.kind, found.directory)
        units.setdefault(key, set()).update([found.unit] if found.unit else [])
        is_new = (status.st_dev, status.st_ino) not in seen
        seen.add((status.st_dev, status.st_ino))
        sizes[key] = sizes.get(key, 0) + (allocated_bytes(status) if is_new else 0)
    return [DiskUse(*key, len(units[key]), n_bytes) for key, n_bytes in sizes.items()]


def _in_hub_cache() -> Iterator[_Found]:
    place = hub_cache.cache_dir()
    for repository in checkpoint_repositories():
        for file in files_below(repository):
            if file.name.endswith(".incomplete"):
                yield _Found("download", place, file, file)
            else:
                yield _Found("checkpoint", place, file, _snapshot(repository / "snapshots", file))


def _snapshot(snapshots: Path, file: Path) -> Path | None:
    """Return the snapshot that a repository's file is in; None for a blob."""
    if not file.is_relative_to(snapshots):
        return None
    return snapshots / file.relative_to(snapshots).parts[0]


def _in_our_directories() -> Iterator[_Found]:
    try:
        models, cache = places.models_dir(), places.cache_dir()
    except NoHome:
        return
    for file in files_below(models):
        yield _ours("packed", models, file)
    for file in files_below(cache):
        folder = cache / file.relative_to(cache).parts[0]
        if folder == file or folder.name not in _FOLDERS:
            yield _Found("other", cache, file, file)
        else:
            yield _ours(_FOLDERS[folder.name], folder, file)


def _ours(kind: Kind, directory: Path, file: Path) -> _Found:
    is_part = kind in ("packed", "copy") and file.name.startswith(".")
    return _Found("unfinished" if is_part else kind, directory, file, file)
