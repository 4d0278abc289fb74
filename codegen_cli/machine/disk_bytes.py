"""Files -> the bytes that they take on disk: without holes, and with what is reserved for them."""

import os
from collections.abc import Iterator
from pathlib import Path

_ROUNDED_BYTES = 1 << 20  # a file's end takes a whole block of these at most


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the files in a directory and those below it; none where it cannot be read."""
    for folder, _, names in os.walk(directory):  # follows no link to a directory
        yield from (Path(folder, name) for name in names)


def allocated_bytes(status: os.stat_result) -> int:
    """Return a file's length; less if it has holes or is compressed, more if room is reserved."""
    n_blocks = getattr(status, "st_blocks", None)  # of 512 bytes, whatever the file system's are
    if n_blocks is None or 0 <= n_blocks * 512 - status.st_size < _ROUNDED_BYTES:
        return status.st_size
    return int(n_blocks) * 512


def freed_bytes(path: Path) -> int:
    """Return what removing a file, or a directory with all in it, would give back.

    Nothing for a file that has another name, too, for a link, and for what has gone.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(map(freed_bytes, files_below(path)))
        status = path.lstat()
        return allocated_bytes(status) if status.st_nlink == 1 else 0
    except OSError:
        return 0
