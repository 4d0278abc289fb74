"""IN, a file or a pipe -> its bytes in pieces, and of a file what it holds before it is used."""

import hashlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from codegen_cli.batch.lines import numbered_lines
from quantize.files.errors import UserError
from quantize.files.input_file import unreadable

_PIECE_BYTES = 1 << 20


class Content(NamedTuple):
    """What a file holds: lines that are to be answered, and which bytes in all."""

    n_lines: int
    n_bytes: int
    sha256: str


class Source:
    """IN, open; a context manager.

    content  None for what can be read only once
    """

    def __init__(self, path: Path | None, read_stdin: Callable[[], bytes]) -> None:
        """path: None is stdin, of which read_stdin returns what comes next, b"" at the end."""
        self._name = "stdin" if path is None else str(path)
        self._read = read_stdin
        self._file: FileIO | None = None
        self.content: Content | None = None
        if path is None:
            return
        try:
            file = self._file = FileIO(path)
        except OSError as error:
            raise unreadable(path, error) from error
        self._read = lambda: file.read(_PIECE_BYTES) or b""
        if path.is_file():
            self.content = self._survey()
            file.seek(0)

    def pieces(self) -> Iterator[bytes]:
        """Yield all bytes, once; UserError if they are not what they were."""
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
            yield piece
        if self.content and digest.hexdigest() != self.content.sha256:
            raise UserError(
                f"{self._name} has changed while it was read",
                "Choose another OUT with -o: this one has answers to both.",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()

    def _survey(self) -> Content:
        digest, n_bytes = hashlib.sha256(), 0

        def told() -> Iterator[bytes]:
            nonlocal n_bytes
            for piece in self._pieces():
                digest.update(piece)
                n_bytes += len(piece)
                yield piece

        n_lines = sum(1 for _ in numbered_lines(told()))
        return Content(n_lines, n_bytes, digest.hexdigest())

    def _pieces(self) -> Iterator[bytes]:
        try:
            yield from iter(self._read, b"")
        except OSError as error:
            raise UserError(
                f"cannot read {self._name}: {error.strerror}", "Give a file of lines of JSON."
            ) from error
