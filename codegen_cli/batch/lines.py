"""The bytes of a file of lines -> its lines that are not blank, numbered, of bounded length."""

from collections.abc import Iterable, Iterator

LONGEST_BYTES = 16 << 20
"""A line of more bytes is an error; no more than these and one are kept of it."""

_BLANK = b" \t\r"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def numbered_lines(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of each line that is not blank, without white space around it.

    pieces  the bytes, cut anywhere; a mark of UTF-8 before them is left out
    number  from 1; blank lines count

    Of a line that is too long its first LONGEST_BYTES + 1 bytes are given.
    """
    for number, line in enumerate(_split(pieces), start=1):
        text = (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).strip(_BLANK)
        if text:
            yield number, text


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    begun = b""
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield _grown(begun, end)
            begun = b""
        begun = _grown(begun, rest)
    yield begun


def _grown(begun: bytes, more: bytes) -> bytes:
    if len(begun) > LONGEST_BYTES or not more:
        return begun
    return (begun + more)[: LONGEST_BYTES + 1]
