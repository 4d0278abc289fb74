"""Payloads, one after another -> their places in an unfinished packed file, and its journal.

Each is hashed and written by a thread, while the next one is being made.
"""

import hashlib
import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from quantize.files.whole_file import blaming, write_all
from quantize.packed import journal
from quantize.packed.journal import Line
from quantize.rounding.groups import Bytes

# What was hashed is still in the CPU's cache when it is written.
_PIECE_BYTES = 1 << 20


class PayloadWriter:
    """A packed file that grows by payloads.

    target      what it is to become
    lines       of the payloads that are written
    kept        how many of them another process has written
    size_bytes  of the whole file
    """

    def __init__(self, file: FileIO, target: Path, sizes: Sequence[int], start: int) -> None:
        self.lines: list[Line] = []
        self.kept = 0
        self.target = target
        self._file, self._sizes = file, sizes
        *self._starts, self.size_bytes = itertools.accumulate(sizes, initial=start)
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def keep(self) -> None:
        """Go on after the payloads that are whole already, and cut off what comes after them.

        Raises OSError where the file system refuses.
        """
        self.lines = journal.whole_payloads(self._file, self._sizes, self._starts[0])
        self.kept = len(self.lines)
        self._file.truncate([*self._starts, self.size_bytes][self.kept])

    def add(self, payload: Bytes, error: float = 0.0) -> None:
        """Write the next payload, which is no longer to be changed, once the one before is written.

        error  relative, of its rounding

        Raises a UserError where that one could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(self._add, payload.data, error)

    def wait(self) -> None:
        """Wait until all that was added is written; raises as `add`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let the thread end, after what it is writing."""
        self._thread.shutdown()

    def _add(self, payload: memoryview, error: float) -> None:
        index, digest = len(self.lines), hashlib.sha256()
        assert len(payload) == self._sizes[index]
        for start in range(0, len(payload), _PIECE_BYTES):
            piece = payload[start : start + _PIECE_BYTES]
            digest.update(piece)
            write_at(self._file, self._starts[index] + start, piece, self.target)
        line = Line(digest.hexdigest(), error)
        with blaming(self.target):
            journal.add(self._file, index, line)
        self.lines.append(line)


def write_at(file: FileIO, start: int, content: memoryview, target: Path) -> None:
    """Write at a place of an unfinished file; raises a UserError as write_all does."""
    with blaming(target):
        file.seek(start)
    write_all(file, content, target)
