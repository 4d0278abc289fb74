"""A path -> its bytes, read or memory-mapped; every failure is a UserError that names the path."""

import mmap
import os
import reprlib
import stat
from pathlib import Path
from typing import BinaryIO

from quantize.files.errors import UserError

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 120
# Six items a level, so that the levels set how long a nested value gets before it is cut.
_SHOWN.maxlevel = 3
_LONGEST_SHOWN = 400


def quoted(value: object) -> str:
    """A value found in a file, as an error may show it: escaped, and short whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    shown = _SHOWN.repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "..."


def shown(text: str) -> str:
    """A text found in a file, as an error may show it: as it reads if it is short and prints."""
    return text if text.isprintable() and len(text) <= _SHOWN.maxstring else quoted(text)


def unreadable(path: Path, error: OSError) -> UserError:
    """The UserError for a path that the file system refuses."""
    reason = error.strerror or str(error)
    return UserError(f"cannot read {path}: {reason}", "Check the path and its permissions.")


def exists(path: Path) -> bool:
    """Whether there is anything at a path; a UserError where that cannot be told."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a NUL character in the name
        raise UserError(f"cannot read {quoted(str(path))}: {error}", "Check the path.") from error
    return True


def read_input(path: Path, limit_bytes: int) -> bytes:
    """The whole content of a regular file of at most `limit_bytes`, else a UserError.

    No more is allocated than the file has bytes; one that grows while it is read is cut.
    """
    try:
        with open_input(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > limit_bytes:
                raise UserError(
                    f"{path} is larger than the {limit_bytes} bytes that such a file may have",
                    "Download the file again, or check that it is the right one.",
                )
            return file.read(size_bytes)
    except OSError as error:
        raise unreadable(path, error) from error


def map_input(path: Path) -> mmap.mmap:
    """A regular file that is not empty, memory-mapped to be read only; else a UserError."""
    try:
        with open_input(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path} is empty", "Download the file again.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise unreadable(path, error) from error


def open_input(path: Path) -> BinaryIO:
    """Open for reading; a pipe or a device is refused before it can block or act.

    What was opened is looked at too: it may have taken the place of what was looked at before.
    Raises UserError for what is no regular file, and OSError where the file system refuses.
    """
    _judge_regular(path, path.stat())
    file = path.open("rb")
    try:
        _judge_regular(path, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def _judge_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UserError(f"cannot read {path}: it is {kind}", "Give the path of a file.")
