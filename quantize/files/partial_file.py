"""A target path -> an unfinished file beside it, and whether anybody still works on such a file.

It is called `.TARGET.xxxxxxxx.part`. Its writer holds a lock on it, which the system takes back
however the process ends. So whoever gets the lock knows that the file is abandoned: it can be
removed, or gone on with by whoever holds it then.
"""

import contextlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)
# Where files cannot be locked: no writer pauses for as long.
_ABANDONED_SECONDS = 24 * 3600


class BeingWritten(Exception):
    """Another process writes the same target now, as `partial`."""

    def __init__(self, partial: Path) -> None:
        super().__init__(partial)
        self.partial = partial


@dataclass(slots=True)
class Claim:
    """The one unfinished file of a target that this process works on.

    is_adopted  whether it is one that was abandoned
    removed     those that were abandoned and did not fit, with their sizes
    is_kept     whether it is to stay if it does not become the target
    """

    partial: Path
    file: FileIO
    is_adopted: bool
    removed: tuple[tuple[Path, int], ...]
    is_kept: bool = False

    def file_bytes(self) -> int:
        """Return the size of the file now."""
        return os.fstat(self.file.fileno()).st_size


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


@contextlib.contextmanager
def claimed_file(target: Path, mode: int, fits: Callable[[FileIO], bool]) -> Iterator[Claim]:
    """An unbuffered file, held: an abandoned one of this target that fits, else a new one.

    Other abandoned ones of the target are removed, and so is this one at the end unless it was
    renamed, or is_kept by then. Raises BeingWritten if another process holds one, and OSError where
    the file system refuses. Of two processes at the same time one gets it.
    """
    claim = _claim(target, mode, fits)
    try:
        with claim.file:
            yield claim
    finally:
        if not claim.is_kept:
            _remove(claim.partial)


def _claim(target: Path, mode: int, fits: Callable[[FileIO], bool]) -> Claim:
    found: tuple[Path, FileIO] | None = None
    removed = []
    with _alone_in(target.parent):
        for partial in _partials(target.parent, target.name):
            file = _taken_over(partial)
            if file is None:
                continue
            if found is None and _is_ours_alone(file) and fits(file):
                found = partial, file
                continue
            with file:
                removed.append((partial, os.fstat(file.fileno()).st_size))
                _remove(partial)
        partial, file = found or _new_file(target, mode)
    return Claim(partial, file, found is not None, tuple(removed))


def _taken_over(partial: Path) -> FileIO | None:
    """Open and hold an abandoned file; None where that cannot be.

    Raises BeingWritten if somebody holds it.
    """
    try:
        file = FileIO(partial, "rb+", opener=_open_no_link)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _is_free(file):
            return file
    except BlockingIOError:
        file.close()
        raise BeingWritten(partial) from None
    except OSError:  # no locks here
        pass
    file.close()
    return None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _is_ours_alone(file: FileIO) -> bool:
    """Tell whether a file is this user's and has no other name, so that no other is changed."""
    status = os.fstat(file.fileno())
    is_own = sys.platform == "win32" or status.st_uid == os.geteuid()
    return is_own and status.st_nlink == 1


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Let no other process look for, and make, unfinished files in a directory meanwhile.

    The lock is on the directory itself, so that no file is left; where there are no such locks,
    two that begin in the same moment may both make one.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(file: IO[bytes]) -> bool:
    """Tell whether somebody works on an unfinished file that is open for reading."""
    try:
        if not _is_free(file):
            return True
    except OSError:
        return True
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
    return False


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
    return [path for path in _partials(directory, target) if _is_abandoned(path)]


def _partials(directory: Path, target: str | None) -> list[Path]:
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return []
    matches = [(path, _PARTIAL.fullmatch(path.name)) for path in paths]
    return [path for path, match in matches if match and target in (None, match[1])]


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
