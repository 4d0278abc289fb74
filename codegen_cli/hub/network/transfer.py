"""A part and a way to ask where its file is -> the whole file, whatever the network does.

One connection fetches from where the part ends. Where much is left, several are timed against it
once, and stay if they are faster. After every failure the hub is asked anew: links expire, and the
file must still be the one that was begun.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from codegen_cli.hub.network.client import HubLocation
from codegen_cli.hub.network.failures import ConnectionCut, NoRanges, WrongLength
from codegen_cli.hub.network.lanes import Lanes
from codegen_cli.hub.network.patience import Patience, passes_by
from codegen_cli.hub.network.ranges import open_body
from codegen_cli.hub.stored.part import Part
from codegen_cli.terminal import console

N_LANES = 4
TRIAL_BYTES, TRIAL_SECONDS = 32 << 20, 4.0  # how much of the file each way is timed with, at least
_WORTH = 8  # trials that must be left for one to be made
_FASTER = 1.2  # how much faster several connections must be

OnBytes = Callable[[int], None]


class Transfer:
    """What is known of one file while it is fetched."""

    def __init__(self, part: Part, locate: Callable[[], HubLocation], on_bytes: OnBytes) -> None:
        """locate: ask the hub where the file is; on_bytes: told of the bytes that have come."""
        self._part, self._locate, self._on_bytes = part, locate, on_bytes
        self._patience = Patience(part.begun.name)
        self._location: HubLocation | None = None
        self._trial = Trial()
        self._has_ranges = True

    def run(self, location: HubLocation) -> None:
        """Fetch what the part lacks, from where it is now.

        Raises FileChanged; UserError, OSError or what the client raises, once going on is no use.
        """
        part = self._part
        self._location = location
        while (length := part.length) < part.begun.file_bytes:
            try:
                self._fetch(self._location or self._located_again())
            except Exception as error:
                if not passes_by(error):
                    raise
                if isinstance(error, NoRanges) and not self._trial.is_split and self._has_ranges:
                    self._do_without_ranges()
                    continue
                self._trial.give_up()
                self._location = None
                self._patience.failed(error, has_progressed=part.length > length)

    def _located_again(self) -> HubLocation:
        found = self._locate()
        self._location = found
        return found

    def _fetch(self, location: HubLocation) -> None:
        """Fetch up to the file's end, or until the other way is to be tried."""
        left_bytes = self._part.begun.file_bytes - self._part.length
        self._trial.begin(left_bytes if self._has_ranges else 0)
        with self._pieces(location) as pieces:
            for piece in pieces:
                self._part.append(piece)
                self._on_bytes(len(piece))
                if self._trial.is_over(len(piece)):
                    return
        if self._part.length < self._part.begun.file_bytes:
            raise ConnectionCut

    def _do_without_ranges(self) -> None:
        self._has_ranges = False
        console.note(f"{self._part.begun.name}: the server sends whole files only")

    @contextmanager
    def _pieces(self, location: HubLocation) -> Iterator[Iterator[bytes]]:
        start, file_bytes = self._part.length, self._part.begun.file_bytes
        if self._trial.is_split:
            lanes = Lanes(location.url, start, file_bytes, N_LANES)
            try:
                yield iter(lanes)
            finally:
                lanes.close()
            return
        with open_body(location.url, start, None, whole=not self._has_ranges) as body:
            if body.file_bytes not in (None, file_bytes):
                found = f"{self._part.begun.name} is sent with {body.file_bytes} bytes"
                raise WrongLength(f"{found}, need {file_bytes}")
            if body.start < start and self._has_ranges:
                self._do_without_ranges()
            yield _between(body.pieces, start - body.start, file_bytes - body.start)


class Trial:
    """Decides once for a file whether several connections are faster than one."""

    def __init__(self) -> None:
        self.is_split = self.is_decided = False
        self._rate_of_one = 0.0
        self._n_bytes, self._started = 0, 0.0

    def begin(self, left_bytes: int) -> None:
        """Start to time what comes now; nothing is tried where little is left."""
        self.is_decided = self.is_decided or left_bytes < _WORTH * TRIAL_BYTES
        self._n_bytes, self._started = 0, time.monotonic()

    def give_up(self) -> None:
        """Stay with one connection."""
        self.is_decided, self.is_split = True, False

    def is_over(self, n_bytes: int) -> bool:
        """Count bytes; tell whether the other way has to be taken from here on."""
        self._n_bytes += n_bytes
        seconds = time.monotonic() - self._started
        if self.is_decided or self._n_bytes < TRIAL_BYTES or seconds < TRIAL_SECONDS:
            return False
        rate = self._n_bytes / seconds
        if not self.is_split:
            self._rate_of_one, self.is_split = rate, True
            return True
        self.is_decided = True
        self.is_split = rate >= _FASTER * self._rate_of_one
        return not self.is_split


def _between(pieces: Iterator[bytes], start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes start..stop of what comes in pieces; no more is read than that takes."""
    at = 0
    for piece in pieces:
        wanted = piece[max(start - at, 0) : stop - at]
        at += len(piece)
        if wanted:
            yield wanted
        if at >= stop:
            return
