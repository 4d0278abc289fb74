"""Files that are fetched only to be packed -> gone afterwards, whatever comes between; others stay.

A mark in the cache directory says which files of a snapshot were not there before, and which commit
the branch was at: whichever run packs them in the end removes them.

    cache/to_be_packed/HASH.json    {"names": ["config.json", ...], "previous": COMMIT or null}
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.removal import remove_checkpoint
from codegen_cli.hub.stored.blob_lock import locked
from codegen_cli.hub.stored.cache import cached_commit, remove_unshared
from codegen_cli.hub.stored.placement import write_ref
from codegen_cli.machine import places
from codegen_cli.machine.places import NoHome
from quantize.files.whole_file import PRIVATE, replace_files


class _Mark(NamedTuple):
    """Names of files that are here to be packed, and the commit that the revision was at before."""

    names: list[str]
    previous: str | None


def mark(entry: ModelEntry, snapshot: Path, names: Iterable[str]) -> None:
    """Note that files of a snapshot, not there yet, are fetched to be packed and for nothing else.

    Without a place for the mark they are kept.
    """
    known, names = _read(snapshot), list(names)
    if not names:
        return
    previous = known.previous if known else cached_commit(entry.repository, entry.revision)
    new = _Mark(sorted({*names, *(known.names if known else ())}), previous)
    with contextlib.suppress(OSError, NoHome):
        path = _mark_of(snapshot)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_files({path: json.dumps(new._asdict()).encode()}, mode=PRIVATE)


def unmark(snapshot: Path) -> None:
    """Note that a snapshot stays."""
    with contextlib.suppress(OSError, NoHome):
        _mark_of(snapshot).unlink()


def remove_marked(entry: ModelEntry, snapshot: Path) -> bool:
    """Remove what is here to be packed only; tell whether anything was. Raises UserError."""
    repository_dir = snapshot.parent.parent
    with locked(
        repository_dir / "blobs" / snapshot.name, lambda: None
    ):  # others have packed it, too
        return _remove_marked(entry, snapshot)


def _remove_marked(entry: ModelEntry, snapshot: Path) -> bool:
    known = _read(snapshot)
    if known is None or not snapshot.is_dir():
        unmark(snapshot)
        return False
    if {path.name for path in snapshot.iterdir()} <= set(known.names):
        remove_checkpoint(entry, left_behind=False)
        if known.previous and (snapshot.parent / known.previous).exists():
            write_ref(snapshot.parent.parent, entry.revision, known.previous)
    else:
        for name in known.names:
            remove_unshared(snapshot / name)
    unmark(snapshot)
    return True


def _read(snapshot: Path) -> _Mark | None:
    try:
        fields = json.loads(_mark_of(snapshot).read_bytes())
        return _Mark([str(name) for name in fields["names"]], fields["previous"])
    except (OSError, NoHome, ValueError, KeyError, TypeError):
        return None


def _mark_of(snapshot: Path) -> Path:
    name = hashlib.sha256(str(snapshot.absolute()).encode("utf-8", "surrogateescape")).hexdigest()
    return places.cache_dir() / "to_be_packed" / f"{name[:32]}.json"
