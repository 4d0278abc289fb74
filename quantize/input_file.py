"""A path -> its bytes, read or memory-mapped; every failure is a UserError that names the path."""

import contextlib
import mmap
import os
import reprlib
import stat
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from quantize.errors import UserError

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 120


def quoted(value: object) -> str:
    """A value found in a file, as an error may show it: escaped, and short whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    return _SHOWN.repr(value)


def unreadable(path: Path, error: OSError) -> UserError:
    """The UserError for a path that the file system refuses."""
    reason = error.strerror or str(error)
    return UserError(f"cannot read {path}: {reason}", "Check the path and its permissions.")


def read_input(path: Path, limit_bytes: int) -> bytes:
    """The whole content of a regular file of at most `limit_bytes`, else a UserError."""
    try:
        with _open_regular(path) as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > limit_bytes:
        raise UserError(
            f"{path} is larger than the {limit_bytes} bytes that such a file may have",
            "Download the file again, or check that it is the right one.",
        )
    return content


def map_input(path: Path) -> npt.NDArray[np.uint8]:
    """A regular file as one read-only, memory-mapped array of bytes [size]; else a UserError."""
    try:
        with _open_regular(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path} is empty", "Download the file again.")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise unreadable(path, error) from error
    return np.frombuffer(mapped, np.uint8)


def release_pages(view: npt.NDArray[np.generic]) -> None:
    """Hand the mapped pages under `view` back to the system, where it can be told to take them.

    A page that was read counts as memory of this process until then, so a checkpoint that is read
    tensor by tensor would seem to fill as much memory as its file is long. The view stays valid.
    """
    whole: npt.NDArray[np.generic] = view
    owner: object = view
    while isinstance(owner, np.ndarray):
        whole, owner = owner, cast(object, owner.base)
    mapped = owner.obj if isinstance(owner, memoryview) else owner
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None or not isinstance(mapped, mmap.mmap) or view.size == 0:
        return
    low, high = np.lib.array_utils.byte_bounds(view)
    first = whole.ctypes.data
    start = (low - first) // mmap.PAGESIZE * mmap.PAGESIZE
    # Refused for memory that is locked in place; then it simply stays.
    with contextlib.suppress(OSError):
        mapped.madvise(advice, start, high - first - start)


def _open_regular(path: Path) -> BinaryIO:
    """Open for reading; a pipe or a device is refused before it can block."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise UserError(f"cannot read {path}: it is {kind}", "Give the path of a file.")
    return path.open("rb")
