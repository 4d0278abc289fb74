"""A file -> the hash by which the hub names its content, compared with the one that it should have.

64 digits   SHA-256 of the bytes: files in git's large file storage, such as weights
40 digits   SHA-1 of "blob SIZE\\0" and the bytes: git's name for a file (git hash-object)
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from quantize.files.input_file import open_input, unreadable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_PIECE_BYTES = 4 << 20

OnBytes = Callable[[int], None]


class Digest(Protocol):
    """A hash under way, as hashlib has them."""

    def update(self, data: "Buffer", /) -> None: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> "Digest": ...


@dataclass(frozen=True, slots=True)
class HashCheck:
    """One file that was hashed: the hash found, and the one needed."""

    path: Path
    found: str
    need: str

    @property
    def is_sound(self) -> bool:
        """Whether the file is what it should be."""
        return self.found == self.need

    def difference(self) -> str:
        """Return what was found and needed, in words."""
        kind = "SHA-256" if len(self.need) == 64 else "git hash"
        return f"found {kind} {self.found}, need {self.need}"


def is_hash(text: object) -> bool:
    """Tell whether a text that a hub or a cache gives can be the hash of a content."""
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def new_digest(need: str, file_bytes: int) -> Digest:
    """Return a hash of nothing yet, of the kind that the needed one tells by its length."""
    if len(need) == 40:
        return hashlib.sha1(b"blob %d\0" % file_bytes)
    return hashlib.sha256()


def check_hash(path: Path, need: str, on_bytes: OnBytes = lambda n_bytes: None) -> HashCheck:
    """Hash a file in the way that the needed hash tells by its length.

    on_bytes is told of the bytes as they are read. Raises UserError if the file cannot be read.
    """
    try:
        with open_input(path) as file:
            digest = new_digest(need, os.fstat(file.fileno()).st_size)
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                on_bytes(len(piece))
    except OSError as error:
        raise unreadable(path, error) from error
    return HashCheck(path, digest.hexdigest(), need)
