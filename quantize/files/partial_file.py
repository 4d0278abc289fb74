"""A target path -> an unfinished file beside it, and whether anybody still works on such a file.

It is called `.TARGET.xxxxxxxx.part`. Its writer holds a lock on it, which the system takes back
however the process ends. So whoever gets the lock knows that the file is abandoned: nobody will
ever finish it.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import IO

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)
# Where files cannot be locked: no writer pauses for as long.
_ABANDONED_SECONDS = 24 * 3600


@contextlib.contextmanager
def partial_file(target: Path, mode: int) -> Iterator[tuple[Path, FileIO]]:
    """A new unbuffered file, held, and its path; removed at the end unless it was renamed.

    mode  its permission bits, less those of the umask

    Raises OSError where the file system refuses.
    """
    partial, file = _new_file(target, mode)
    try:
        with file:
            yield partial, file
    finally:
        _remove(partial)


@contextlib.contextmanager
def partial_link(target: Path, source: Path) -> Iterator[tuple[Path, FileIO]]:
    """A new hard link to a file, held, and its path; else as partial_file."""
    partial = partial_path(target)
    try:
        os.link(source.resolve(), partial)
        with FileIO(partial) as file:
            _hold(file, waits=False)
            yield partial, file
    finally:
        _remove(partial)


def partial_path(target: Path) -> Path:
    """Return a new name for an unfinished file beside its target."""
    return target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")


def _new_file(target: Path, mode: int) -> tuple[Path, FileIO]:
    while True:
        partial = partial_path(target)
        file = FileIO(partial, "xb", opener=lambda path, flags: os.open(path, flags, mode))
        _hold(file)
        if partial.exists():
            return partial, file
        file.close()  # taken for abandoned in the moment before it was locked


def _remove(partial: Path) -> None:
    with contextlib.suppress(OSError):  # renamed, or nothing can be done: `prune` finds it
        partial.unlink()


def _hold(file: FileIO, *, waits: bool = True) -> None:
    """Lock an unfinished file as being worked on, until it is closed, where files can be locked.

    Several holders may share one file, as the hard links of an import do.
    """
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH | (0 if waits else fcntl.LOCK_NB))


def abandoned_files(directory: Path, target: str | None = None) -> list[Path]:
    """Return the unfinished files in a directory whose writers have ended, sorted.

    target  the name of what they were to become; None: of any. None at all for a directory that is
            missing or cannot be read.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return []
    matches = [(path, _PARTIAL.fullmatch(path.name)) for path in paths]
    wanted = [path for path, match in matches if match and target in (None, match[1])]
    return [path for path in wanted if _is_abandoned(path)]


def remove_abandoned(partial: Path) -> bool:
    """Remove an unfinished file unless somebody works on it; tell whether it was removed."""
    return _is_abandoned(partial, remove=True)


def _is_abandoned(path: Path, *, remove: bool = False) -> bool:
    """Tell whether nobody holds a file; remove it then if asked to, before anybody can."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            if not _is_free(file):
                return False
            if remove and sys.platform != "win32":
                path.unlink()
        # Windows removes no open file, and so none that somebody writes to.
        if remove and sys.platform == "win32":
            path.unlink()
    except OSError:
        return False
    return True


def _is_free(file: IO[bytes]) -> bool:
    if sys.platform == "win32":
        return time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED_SECONDS
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: held, or no locks here
    return True
