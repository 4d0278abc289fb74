"""A path -> how much room its disk has; an open file -> room that nobody else can take."""

import ctypes
import errno
import os
import shutil
import sys
from io import FileIO
from pathlib import Path

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of fallocate(2)
_UNABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def free_bytes(path: Path) -> int:
    """Return what may still be written to the disk that a path is or would be on."""
    return shutil.disk_usage(nearest(path)).free


def are_on_one_disk(one: Path, other: Path) -> bool:
    """Tell whether two paths, which need not exist, are or would be on the same file system."""
    return nearest(one).stat().st_dev == nearest(other).stat().st_dev


def nearest(path: Path) -> Path:
    """Return a path, or what exists of the way to it."""
    return next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110


def reserve(file: FileIO, start: int, stop: int) -> None:
    """Reserve room for bytes start..stop of a file, whose size stays as it is.

    Raises OSError (ENOSPC) where there is none. Where the system cannot reserve, nothing is done.
    Truncating the file, to its own size too, gives back what was not used.
    """
    if not sys.platform.startswith("linux") or stop <= start:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # fallocate64 takes 64-bit offsets on every kind of Linux; musl has but the one.
    allocate = getattr(libc, "fallocate64", None) or libc.fallocate
    allocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if allocate(file.fileno(), _KEEP_SIZE, start, stop - start) and (
        ctypes.get_errno() not in _UNABLE
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
