"""A target path -> a new file that takes its place whole, or not at all.

The file grows beside its target as `.TARGET.xxxxxxxx.part`. Its writer holds a lock on it, which
the system takes back however the process ends. So whoever gets the lock knows that the file is
abandoned: nobody will ever finish it.
"""

import contextlib
import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import IO

from quantize.files.errors import UserError

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)
# Where files cannot be locked: no writer pauses for as long.
_ABANDONED_SECONDS = 24 * 3600

_HINTS = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EFBIG: "A limit on the size of files is in the way: see `ulimit -f`.",
    errno.EISDIR: "Give the path of a file, not of a directory.",
    errno.ENOENT: "Create the directory first, or choose another place.",
}


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[FileIO]:
    """A new unbuffered file that takes the target's place on success and is removed otherwise.

    Write to it with write_all. Raises UserError where the file system refuses.
    """
    with blaming(target):
        partial, file = _new_partial(target)
    try:
        with file:
            yield file
            with blaming(target):
                os.fsync(file.fileno())
                if sys.platform != "win32":  # while the lock is held; Windows renames no open file
                    partial.replace(target)
        if sys.platform == "win32":
            with blaming(target):
                partial.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def write_all(file: FileIO, content: memoryview, target: Path) -> None:
    """Write to an unbuffered file, which may take a part of the content at a time.

    Raises a UserError that names the target where the file system refuses.
    """
    with blaming(target):
        while content:
            content = content[file.write(content) :]


@contextlib.contextmanager
def blaming(target: Path) -> Iterator[None]:
    """Turn the file system's refusal into a UserError that names the target."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = hint_for(error, "Check the path and its permissions.")
        raise UserError(f"cannot write {target}: {reason}", hint) from error


def hint_for(error: OSError, otherwise: str) -> str:
    """Return what to do about a file system's refusal to write."""
    return _HINTS.get(error.errno or 0, otherwise)


def partial_path(target: Path) -> Path:
    """Return a new name for an unfinished file beside its target."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def hold(file: IO[bytes], *, waits: bool = True) -> None:
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


def _new_partial(target: Path) -> tuple[Path, FileIO]:
    while True:
        partial = partial_path(target)
        file = partial.open("xb", buffering=0)
        hold(file)
        if partial.exists():
            return partial, file
        file.close()  # taken for abandoned in the moment before it was locked
