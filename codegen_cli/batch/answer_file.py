"""Answers in their order -> OUT, a file that grows by whole lines; what a killed run left of it.

One process at a time has it, by a lock that ends with the process (on Windows there is none). What
it has reached the disk with is at most _SYNC_SECONDS old: after a power cut, too, the answers up to
the first that is not whole are answers, and the rest is made again.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from quantize.files.errors import UserError
from quantize.files.input_file import exists
from quantize.files.whole_file import SHARED, blaming, write_all

_SYNC_SECONDS = 1.0
_PIECE_BYTES = 1 << 20


class AnswerFile:
    """OUT, held; a context manager. One that it has made goes again if nothing gets into it.

    is_empty  whether there was nothing in it
    """

    def __init__(self, path: Path) -> None:
        self._is_new = not exists(path)
        with blaming(path):
            self._file = FileIO(path, "rb+", opener=_open_or_create)
        self.path = path
        self._synced = time.monotonic()
        try:
            with blaming(path):
                _hold(self._file, path)
                self._end = os.fstat(self._file.fileno()).st_size
        except BaseException:
            self._file.close()
            raise
        self.is_empty = self._end == 0

    def answers(self) -> Iterator[bytes]:
        """Yield the whole lines that are there, without line ends, up to what a kill left torn."""
        with blaming(self.path):
            self._file.seek(0)
            begun = b""
            while piece := self._file.read(_PIECE_BYTES):
                *ended, begun = (begun + piece).split(b"\n")
                for line in ended:
                    if b"\0" in line:  # room that a power cut left without its content
                        return
                    yield line

    def cut(self, n_bytes: int) -> None:
        """Keep only so many bytes, and append from there on."""
        with blaming(self.path):
            if n_bytes < self._end:
                self._file.truncate(n_bytes)
            self._end = n_bytes
            self._file.seek(n_bytes)

    def append(self, line: bytes) -> None:
        """Add a line, whole or not at all; raises UserError where the file system refuses."""
        try:
            write_all(self._file, memoryview(line), self.path)
        except UserError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(line)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Bring all to the disk."""
        with blaming(self.path):
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self.sync()
            elif self._is_new and os.fstat(self._file.fileno()).st_size == 0:
                with contextlib.suppress(OSError):
                    self.path.unlink()


def _open_or_create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, SHARED)


def _hold(file: FileIO, path: Path) -> None:
    """Lock a file until it is closed, where files can be locked."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process is writing {path}", "Wait for it, or choose another OUT with -o."
        ) from None
    except OSError:  # no locks here
        pass
