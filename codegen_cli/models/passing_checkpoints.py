"""Checkpoints that are fetched only to be packed -> which go afterwards, whatever comes between.

A mark in the cache directory says of a snapshot that it was not there before: whichever run packs
it in the end removes it.
"""

import contextlib
import hashlib
from pathlib import Path

from codegen_cli.machine import places
from codegen_cli.machine.places import NoHome


def mark(snapshot: Path) -> None:
    """Note that a snapshot is here to be packed, and for nothing else."""
    with contextlib.suppress(OSError, NoHome):
        path = _mark_of(snapshot)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def unmark(snapshot: Path) -> None:
    """Note that a snapshot stays."""
    with contextlib.suppress(OSError, NoHome):
        _mark_of(snapshot).unlink()


def is_marked(snapshot: Path) -> bool:
    """Tell whether a snapshot is here to be packed only."""
    try:
        return _mark_of(snapshot).exists()
    except (OSError, NoHome):
        return False


def _mark_of(snapshot: Path) -> Path:
    name = hashlib.sha256(str(snapshot.absolute()).encode("utf-8", "surrogateescape")).hexdigest()
    return places.cache_dir() / "to_be_packed" / name[:32]
