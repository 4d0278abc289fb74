"""Pieces of a file as they arrive -> its part in the hub's cache, which the next process continues.

    blobs/ETAG.codegen.incomplete        the file's bytes from its start on
    blobs/ETAG.codegen.sums.incomplete   what it is a part of: JSON, padded to 4096 bytes; then of
                                         each stretch its end u64 and CRC-32 u32, little-endian

Bytes count as there if the sum of their stretch confirms them: what a power cut has taken, or
somebody has added, is cut off before a download goes on. Both names end as those of the hub's own
parts do, so that its programs list and prune them. All is done under the hub's lock on the blob.
"""

import contextlib
import json
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import NamedTuple

from codegen_cli.hub.stored.content_hash import Digest
from codegen_cli.machine.disk_room import reserve
from quantize.files.errors import UserError

PART_SUFFIX = ".codegen.incomplete"
SUMS_SUFFIX = ".codegen.sums.incomplete"

_HEADER_BYTES = 4096
_STRETCH = Struct("<QI")
_STRETCH_BYTES, _STRETCH_SECONDS = 4 << 20, 1.0  # whichever comes first: what a kill may cost
_MORE_STRETCHES = 3600  # an hour of them, for a second each, has room reserved
_SYNC_BYTES = 256 << 20  # what a power cut may cost
_PIECE_BYTES = 1 << 20

OnBytes = Callable[[int], None]


class Begun(NamedTuple):
    """What a part is of: a file of so many bytes, at the commit that a revision was at then."""

    name: str
    file_bytes: int
    revision: str
    commit: str


def part_path(blob: Path) -> Path:
    """Return where the part of a blob is."""
    return blob.with_name(blob.name + PART_SUFFIX)


def sums_path(blob: Path) -> Path:
    """Return where the sums of a blob's part are."""
    return blob.with_name(blob.name + SUMS_SUFFIX)


def read_begun(sums: Path) -> Begun | None:
    """Return what a part is of by its sums; None where that cannot be read."""
    try:
        if not stat.S_ISREG(sums.lstat().st_mode):  # a pipe would be waited for
            return None
        with FileIO(sums) as file:
            return _header_in(file)
    except OSError:
        return None


def note_begun(blob: Path, begun: Begun) -> None:
    """Have a part, empty yet, unless there is one already. Raises OSError."""
    if read_begun(sums_path(blob)) is None:
        blob.parent.mkdir(parents=True, exist_ok=True)
        with _opened(part_path(blob)), _opened(sums_path(blob)) as sums:
            _write(sums, _header(begun))


def remove_part(blob: Path) -> None:
    """Remove a blob's part if there is one; raises OSError where the file system refuses."""
    part_path(blob).unlink(missing_ok=True)
    sums_path(blob).unlink(missing_ok=True)


class Part:
    """One file that is being fetched.

    Raises OSError wherever the file system refuses, and UserError for what has the names of a part
    and is none.

    length  how many of its bytes are there
    """

    def __init__(self, blob: Path, begun: Begun, digest: Digest) -> None:
        """digest: of no bytes yet; all that are there go through it, in order."""
        self.begun, self.length = begun, 0
        self._blob, self._digest = blob, digest
        self._sum = self._summed_bytes = self._synced_bytes = 0
        self._summed_at = time.monotonic()
        self._was_there = self._is_known = False
        self._open()

    def __enter__(self) -> "Part":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep what is there, and give back the room that was reserved for more."""
        if self._is_known and not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.truncate(self.length)  # first: a full disk has no room for the sum
            with contextlib.suppress(OSError):
                self._write_sum()
                self._sums.truncate(self._sums.tell())
        self._close()
        if not self._was_there and not self.length:
            with contextlib.suppress(OSError):
                remove_part(self._blob)

    def resume(self, on_bytes: OnBytes = lambda n_bytes: None) -> None:
        """Find out what is there, reading it once, and reserve room for the rest.

        Interrupted, it has changed nothing.
        """
        known = _header_in(self._sums)
        self._was_there = known is not None
        n_confirmed = 0
        if known is not None and known.file_bytes == self.begun.file_bytes:
            n_confirmed = self._confirm(on_bytes)
        self._is_known = True
        self._file.truncate(self.length)
        self._file.seek(self.length)
        self._sums.truncate(_HEADER_BYTES + n_confirmed * _STRETCH.size)
        if known != self.begun:
            self._write_header()
        self._summed_bytes = self._synced_bytes = self.length
        end = self._sums.seek(0, os.SEEK_END)
        n_stretches = (self.begun.file_bytes - self.length) // _STRETCH_BYTES + _MORE_STRETCHES
        reserve(self._sums, end, end + n_stretches * _STRETCH.size)
        reserve(self._file, self.length, self.begun.file_bytes)

    def append(self, piece: bytes) -> None:
        """Add the next bytes; of those that cannot be stored the ones before are kept."""
        left = memoryview(piece)
        while left:
            n_bytes = self._file.write(left)
            self._digest.update(left[:n_bytes])
            self._sum = zlib.crc32(left[:n_bytes], self._sum)
            self.length += n_bytes
            left = left[n_bytes:]
        is_long = self.length - self._summed_bytes >= _STRETCH_BYTES
        if is_long or time.monotonic() - self._summed_at >= _STRETCH_SECONDS:
            self._return_to_place()
            self._write_sum()

    def hash(self) -> str:
        """Return the hash of what is there."""
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Give the file, which is whole now, its blob's name."""
        self._return_to_place()
        os.fsync(self._file.fileno())
        self._close()
        part_path(self._blob).replace(self._blob)
        remove_part(self._blob)

    def discard(self) -> None:
        """Remove it: what has come is of no use."""
        self._close()
        remove_part(self._blob)

    def _open(self) -> None:
        self._blob.parent.mkdir(parents=True, exist_ok=True)
        self._file = _opened(part_path(self._blob))
        try:
            self._sums = _opened(sums_path(self._blob))
        except BaseException:
            self._file.close()
            raise

    def _close(self) -> None:
        self._file.close()
        self._sums.close()

    def _write_header(self) -> None:
        self._sums.seek(0)
        _write(self._sums, _header(self.begun))

    def _write_sum(self) -> None:
        if self.length == self._summed_bytes:
            return
        is_due = self.length - self._synced_bytes >= _SYNC_BYTES
        if is_due:
            os.fsync(self._file.fileno())
        _write(self._sums, _STRETCH.pack(self.length, self._sum))
        if is_due:
            os.fsync(self._sums.fileno())
            self._synced_bytes = self.length
        self._sum, self._summed_bytes, self._summed_at = 0, self.length, time.monotonic()

    def _confirm(self, on_bytes: OnBytes) -> int:
        """Read the stretches that have sums; return how many are as they were written."""
        self._file.seek(0)
        n_confirmed = 0
        for end, need in _stretches_in(self._sums, self.begun.file_bytes):
            digest, found, left_bytes = self._digest.copy(), 0, end - self.length
            while left_bytes and (piece := self._file.read(min(left_bytes, _PIECE_BYTES))):
                digest.update(piece)
                found = zlib.crc32(piece, found)
                left_bytes -= len(piece)
                on_bytes(len(piece))
            if left_bytes or found != need:
                break
            self._digest, self.length, n_confirmed = digest, end, n_confirmed + 1
        return n_confirmed

    def _return_to_place(self) -> None:
        """Where somebody has pruned the cache meanwhile, copy what has come to a new part."""
        with contextlib.suppress(OSError):
            if os.path.samestat(part_path(self._blob).lstat(), os.fstat(self._file.fileno())):
                return
        with self._file as pruned:
            self._sums.close()
            self._open()
            self._write_header()
            self._sum = self._summed_bytes = self._synced_bytes = 0
            pruned.seek(0)
            while piece := pruned.read(_PIECE_BYTES):
                _write(self._file, piece)
                self._sum = zlib.crc32(piece, self._sum)


def _opened(path: Path) -> FileIO:
    """Open a file of ours to read and write, new or not; what else has its name is refused."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is in the way: no regular file", "Remove it.")
        if status.st_nlink > 1:  # somebody's, too, under another name
            path.unlink()
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return FileIO(os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666), "r+b")


def _write(file: FileIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _header(begun: Begun) -> bytes:
    return json.dumps(begun).encode().ljust(_HEADER_BYTES)


def _header_in(sums: FileIO) -> Begun | None:
    sums.seek(0)
    header = sums.read(_HEADER_BYTES)
    try:
        begun = Begun(*json.loads(header))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (begun.name, begun.revision, begun.commit)
    is_sound = all(isinstance(text, str) for text in texts) and type(begun.file_bytes) is int
    return begun if is_sound and len(header) == _HEADER_BYTES else None


def _stretches_in(sums: FileIO, file_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the end and the sum of each stretch, as long as the ends make sense."""
    sums.seek(_HEADER_BYTES)
    last = 0
    while len(record := sums.read(_STRETCH.size)) == _STRETCH.size:
        end, need = _STRETCH.unpack(record)
        if not last < end <= file_bytes:
            return
        yield end, need
        last = end
