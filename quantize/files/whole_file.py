"""Bytes or an existing file, and a target path -> the target, whole or as it was before.

All that this program writes under a name of its own goes through here. A new file grows beside its
target (partial_file.py), is brought to the disk, and then takes the target's name in one step.
"""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path

from quantize.files.errors import UserError
from quantize.files.partial_file import Claim, claimed_file, partial_file, partial_link

PRIVATE = 0o600
"""Permission bits of a file that is this user's alone."""

SHARED = 0o666
"""Permission bits of a file that others may read, and write, as far as the umask lets them."""

_COPIED_BYTES = 16 << 20

_HINTS = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EFBIG: "A limit on the size of files is in the way: see `ulimit -f`.",
    errno.EISDIR: "Give the path of a file, not of a directory.",
    errno.ENOENT: "Create the directory first, or choose another place.",
}


@contextlib.contextmanager
def replacing(target: Path, *, mode: int) -> Iterator[FileIO]:
    """A new unbuffered file that takes the target's place on success and is removed otherwise.

    Write to it with write_all. Raises UserError where the file system refuses.
    """
    with contextlib.ExitStack() as unfinished:
        with blaming(target):
            partial, file = unfinished.enter_context(partial_file(target, mode))
        yield file
        with blaming(target):
            os.fsync(file.fileno())
            _rename(partial, file, target)


@contextlib.contextmanager
def resuming_file(target: Path, *, mode: int, fits: Callable[[FileIO], bool]) -> Iterator[Claim]:
    """As `replacing`, with an unfinished file that was abandoned if there is one that fits.

    The claim says whether it is, and decides whether the file stays if something is raised. Raises
    BeingWritten while another process writes the target.
    """
    with contextlib.ExitStack() as unfinished:
        with blaming(target):
            claim = unfinished.enter_context(claimed_file(target, mode, fits))
        yield claim
        with blaming(target):
            os.fsync(claim.file.fileno())
            _rename(claim.partial, claim.file, target)


def replace_files(contents: Mapping[Path, bytes], *, mode: int) -> None:
    """Give each path its new content; none is touched before all contents are on the disk.

    Raises OSError where the file system refuses.
    """
    with contextlib.ExitStack() as unfinished:
        renamings = []
        for target, content in contents.items():
            partial, file = unfinished.enter_context(partial_file(target, mode))
            _write(file, memoryview(content))
            os.fsync(file.fileno())
            renamings.append((partial, file, target))
        for renaming in renamings:
            _rename(*renaming)


@contextlib.contextmanager
def adopting(source: Path, target: Path, *, replace: bool, mode: int) -> Iterator[Path]:
    """A file with the source's content that takes the target's place on success.

    replace  whether it may replace a file; FileExistsError if not, and there is one at the end
    mode     as partial_file takes it, where a copy must be made

    On one disk the source is not copied: both paths then name one file (a hard link). Yields where
    the new file is until the end. Raises OSError where the file system refuses.
    """
    with contextlib.ExitStack() as unfinished:
        try:
            partial, file = unfinished.enter_context(partial_link(target, source))
        except OSError:  # another disk, a file system without links, or somebody else's file
            partial, file = unfinished.enter_context(partial_file(target, mode))
            _copy(source, file, partial.parent)
        yield partial
        (_rename if replace else _rename_to_new)(partial, file, target)


def write_all(file: FileIO, content: memoryview, target: Path) -> None:
    """Write to an unbuffered file, which may take a part of the content at a time.

    Raises a UserError that names the target where the file system refuses.
    """
    with blaming(target):
        _write(file, content)


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


def _write(file: FileIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]


def _rename(partial: Path, file: FileIO, target: Path) -> None:
    """Give an unfinished file its name: while it is held, but Windows renames no open file."""
    if sys.platform == "win32":
        file.close()
    partial.replace(target)


def _rename_to_new(partial: Path, file: FileIO, target: Path) -> None:
    """As _rename, but FileExistsError if another process has taken the name in the meantime."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        _rename(partial, file, target)


def _copy(source: Path, file: FileIO, directory: Path) -> None:
    needed_bytes, free_bytes = source.stat().st_size, shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{free_bytes / 1e6:,.0f} MB are free, need {needed_bytes / 1e6:,.0f} MB",
        ) from None
    with source.open("rb") as original:
        while piece := original.read(_COPIED_BYTES):
            _write(file, memoryview(piece))
    os.fsync(file.fileno())
