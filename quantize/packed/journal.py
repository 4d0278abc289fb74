"""An unfinished packed file -> which of its payloads are whole: a journal where its header will be.

    offset 0   "codegen-unfinished 1 ", 64 digits of the identity, "\\n"
    then       for each payload, in their order, 96 bytes: 64 digits of its SHA-256, " ",
               the relative error of its rounding, spaces, "\\n"

The identity is the SHA-256 of all that the finished file's bytes depend on. A line may reach the
disk before its payload, and anybody may have written it: what a payload is worth, its hash tells.
"""

import hashlib
import math
import re
from collections.abc import Iterable
from io import FileIO
from typing import NamedTuple

_START = b"codegen-unfinished 1 %b\n"
_DIGITS = 64
_LINE_BYTES = 96
_LINE = re.compile(rb"([0-9a-f]{64}) ([0-9][0-9.e+-]{0,29}) *\n")
_PIECE_BYTES = 4 << 20


class Line(NamedTuple):
    """What is known of a payload that is whole: its SHA-256, and its relative error."""

    sha256: str
    error: float


def identity_of(parts: Iterable[bytes]) -> str:
    """Return the identity of a file whose bytes follow from these."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def journal_bytes(n_payloads: int) -> int:
    """Return the bytes of a journal with so many lines."""
    return len(_START) - 2 + _DIGITS + n_payloads * _LINE_BYTES


def begin(file: FileIO, identity: str) -> None:
    """Write the first line of a journal; OSError where the file system refuses."""
    file.seek(0)
    file.write(_START % identity.encode("ascii"))


def names(file: FileIO, identity: str) -> bool:
    """Tell whether a file begins with a journal of this identity."""
    start = _START % identity.encode("ascii")
    file.seek(0)
    return file.read(len(start)) == start


def add(file: FileIO, index: int, line: Line) -> None:
    """Write the line of the index-th payload, counted from 0."""
    file.seek(journal_bytes(index))
    text = f"{line.sha256} {line.error:.17g}".ljust(_LINE_BYTES - 1) + "\n"
    file.write(text.encode("ascii"))


def whole_payloads(file: FileIO, sizes: Iterable[int], start: int) -> list[Line]:
    """Return the lines of the payloads that are in the file as their lines say, up to the first.

    sizes  bytes of each payload; they follow one another from `start` on
    """
    lines: list[Line] = []
    for size in sizes:
        line = _read(file, len(lines))
        if line is None or _sha256(file, start, size) != line.sha256:
            break
        lines.append(line)
        start += size
    return lines


def _read(file: FileIO, index: int) -> Line | None:
    file.seek(journal_bytes(index))
    match = _LINE.fullmatch(file.read(_LINE_BYTES))
    try:
        error = float(match[2]) if match else math.nan
    except ValueError:
        return None
    return Line(match[1].decode("ascii"), error) if match and math.isfinite(error) else None


def _sha256(file: FileIO, start: int, size: int) -> str:
    """Return the SHA-256 of some bytes, "" if they are not all there to be read."""
    digest = hashlib.sha256()
    try:
        file.seek(start)
        while size and (piece := file.read(min(size, _PIECE_BYTES))):
            digest.update(piece)
            size -= len(piece)
    except OSError:  # a disk that fails
        return ""
    return "" if size else digest.hexdigest()
