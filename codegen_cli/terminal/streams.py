"""The standard streams: a result -> stdout, whole or with an error; stderr, which never fails.

Both take UTF-8 whatever the locale. Nothing of a result waits in a buffer: where a write returns,
its bytes are written.
"""

import io
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from quantize.files.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# How long a message waits for a reader that reads slowly: no result waits for a message.
_PATIENCE_SECONDS = 1.0


def open_streams() -> None:
    """Make sys.stdout and sys.stderr what this module promises; once, before anything is written.

    Whoever writes to them keeps the promise then: typer its help, rich its tables and bars, Python
    its warnings. A stream that the caller closed leads nowhere: Python has None for it, and the
    system would give its number to the next file that is opened.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    stdout, stderr = _Stdout(_file_behind(sys.stdout)), _Stderr(_file_behind(sys.stderr))
    sys.stdout = io.TextIOWrapper(
        cast(BinaryIO, stdout), "utf-8", errors="surrogateescape", write_through=True
    )
    # Line by line, or those of two programs would mix in one log.
    sys.stderr = io.TextIOWrapper(
        cast(BinaryIO, stderr), "utf-8", errors="backslashreplace", line_buffering=True
    )


def write_result(content: str | bytes) -> None:
    """Write a part of a command's result to stdout, at once, in UTF-8 whatever the locale.

    Raises UserError where stdout refuses, as on a full disk; BrokenPipeError once nobody reads.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def write_line(line: str | bytes) -> None:
    """Write a line of a command's result; errors as write_result's."""
    write_result(line + b"\n" if isinstance(line, bytes) else f"{line}\n")


def write_json(value: Any) -> None:
    """Write a value as a line of JSON, as json_text has it; errors as write_result's."""
    write_line(json_text(value))


def json_text(value: Any) -> str:
    """Return a value as JSON in ASCII, with paths as text.

    No JSON can hold a byte that is not UTF-8, as a file's name may: it is written \\xNN.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    return re.sub(r"[^\x00-\x7f]", lambda found: _in_json(found[0]), text)


def escaped(character: str) -> str:
    """Return in ASCII a character that no output can hold.

    \\xNN is a byte that is not UTF-8: Python hands it over as the character U+DCNN.
    """
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]


def read_stdin() -> bytes:
    """Return what stdin gives next, b"" at its end, waiting for it where stdin does not wait.

    Python's buffer is left out: a thread that waits inside it would block the process's end.
    """
    while True:
        try:
            return os.read(0, 1 << 20)
        except BlockingIOError:
            _wait_until_ready(0, reads=True)


class _Part:
    """Bytes on their way into a file that may take some of them at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._taken: list[int] = []

    def rest(self) -> memoryview:
        """Return what is still to be written."""
        return self._content[sum(self._taken) :]

    def write_to(self, file: io.RawIOBase) -> bool:
        """Write once, and tell whether the file took any; OSError where it refuses.

        The handler of a signal may raise as soon as Python goes on, and what `write` returned would
        be lost: the list has it by then.
        """
        before = len(self._taken)
        self._taken.extend(filter(None, map(file.write, [self.rest()])))
        return len(self._taken) > before


class _Stream(io.RawIOBase):
    """A file without a buffer, to which its heirs write."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()

    def _finish(self, part: _Part, seconds: float | None = None) -> None:
        """Write all of a part, waiting for a reader up to so many seconds where the file does not.

        Raises OSError, and what a signal handler raises.
        """
        while part.rest():
            if not part.write_to(self._file):
                _wait_until_ready(self.fileno(), seconds=seconds)


class _Stdout(_Stream):
    """Takes bytes whole. The rest of what a signal interrupted is written before what comes next.

    So no byte is written twice and none is left out in between: the end of an object of JSON
    follows its beginning.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        super().__init__(file)
        self._part = _Part(b"")

    def write(self, content: "ReadableBuffer") -> int:
        data = bytes(content)
        try:
            self._finish(self._part)
            self._part = _Part(data)
            self._finish(self._part)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _refused(error) from error
        return len(data)


class _Stderr(_Stream):
    """Takes what it can: a message that cannot be written is lost, and nothing else is."""

    _patience_seconds = _PATIENCE_SECONDS

    def write(self, content: "ReadableBuffer") -> int:
        data = bytes(content)
        try:
            self._finish(_Part(data), self._patience_seconds)
            self._patience_seconds = _PATIENCE_SECONDS
        except OSError:  # a reader that has gone to sleep is waited for once, not for each line
            self._patience_seconds = 0.0
        return len(data)


def _file_behind(stream: TextIO | None) -> io.RawIOBase:
    """Return the file that Python's stream writes to, which has a buffer or has none."""
    if stream is None:
        return open(os.devnull, "wb", buffering=0)  # noqa: PTH123
    file: Any = stream.buffer
    return cast(io.RawIOBase, getattr(file, "raw", file))


def _wait_until_ready(handle: int, *, reads: bool = False, seconds: float | None = None) -> None:
    """Wait until a pipe or terminal takes or gives something; TimeoutError after so long."""
    if sys.platform == "win32":  # select knows sockets only
        time.sleep(0.01)
        return
    import select

    if not any(select.select([handle] * reads, [handle] * (not reads), [], seconds)):
        raise TimeoutError


def _refused(error: OSError) -> UserError:
    from quantize.files.whole_file import hint_for

    hint = hint_for(error, "Write to a file or a pipe that takes it.")
    return UserError(f"cannot write to stdout: {error.strerror}", hint)


def _in_json(character: str) -> str:
    is_surrogate = "\ud800" <= character <= "\udfff"
    return json.dumps(escaped(character) if is_surrogate else character)[1:-1]
