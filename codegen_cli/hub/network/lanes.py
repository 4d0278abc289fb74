"""A URL -> the bytes of a file in order, fetched by several connections side by side.

Each lane takes the next chunk that nobody has, and holds it until all before it were handed on: so
the file grows from its start as ever, and its hash with it. Lanes stay a few chunks ahead.
"""

import threading
from collections.abc import Iterator

from codegen_cli.hub.network.failures import ConnectionCut, NoRanges
from codegen_cli.hub.network.ranges import open_body

CHUNK_BYTES = 8 << 20
_CHUNKS_AHEAD = 2  # of each lane
_POLL_SECONDS = 0.1  # the longest that Ctrl-C has to wait


class Lanes:
    """Iterate over it once; close it to have no more."""

    def __init__(self, url: str, start: int, file_bytes: int, n_lanes: int) -> None:
        self._url, self._start, self._file_bytes = url, start, file_bytes
        self._n_chunks = -(-(file_bytes - start) // CHUNK_BYTES)
        self._most_ahead = n_lanes * _CHUNKS_AHEAD
        self._results: dict[int, bytes | BaseException] = {}
        self._n_taken = self._n_handed_on = 0
        self._is_closed = False
        self._changed = threading.Condition()  # held for all above
        for _ in range(n_lanes):
            threading.Thread(target=self._run, daemon=True).start()

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunk after chunk; raises what fetching one of them has raised."""
        for number in range(self._n_chunks):
            with self._changed:
                while number not in self._results:
                    self._changed.wait(_POLL_SECONDS)
                result = self._results.pop(number)
                self._n_handed_on += 1
                self._changed.notify_all()
            if isinstance(result, BaseException):
                raise result
            yield result

    def close(self) -> None:
        """Have the lanes end; nobody waits for them."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (number := self._take()) is not None:
            result: bytes | BaseException
            try:
                result = self._fetch(number)
            except BaseException as error:
                result = error
            with self._changed:
                self._results[number] = result
                self._changed.notify_all()

    def _take(self) -> int | None:
        """Return the number of a chunk to fetch, None if there are no more."""
        with self._changed:
            while self._n_taken - self._n_handed_on >= self._most_ahead and not self._is_closed:
                self._changed.wait()
            if self._is_closed or self._n_taken == self._n_chunks:
                return None
            self._n_taken += 1
            return self._n_taken - 1

    def _fetch(self, number: int) -> bytes:
        start = self._start + number * CHUNK_BYTES
        stop = min(start + CHUNK_BYTES, self._file_bytes)
        chunk = bytearray()
        with open_body(self._url, start, stop) as body:
            if body.start != start:
                raise NoRanges
            for piece in body.pieces:
                chunk += piece[: stop - start - len(chunk)]
                if len(chunk) == stop - start or self._is_closed:
                    return bytes(chunk)
        raise ConnectionCut
