"""How much is done of long work -> a plain line every few seconds, where no bar can be drawn."""

import time
from collections.abc import Callable

from codegen_cli.terminal.console import note, printable, size

EVERY_SECONDS = 5.0


class ProgressLines:
    """Counts from the first call on: what was done before tells nothing of the speed."""

    def __init__(
        self, label: str, *, in_bytes: bool, speed: Callable[[], str] | None = None
    ) -> None:
        """Tell nothing yet.

        in_bytes  tell what is done in bytes, and how many come in a second; else the share
        speed     what to tell beside a share of how fast it is
        """
        self._label, self._in_bytes, self._speed = printable(label), in_bytes, speed
        self._first_done = 0.0
        self._started = self._told = 0.0

    def advance(self, done: float, total: float) -> None:
        """Take note of how much is done, and of how much; tell it if it is time."""
        now = time.monotonic()
        if not self._started:
            self._first_done, self._started, self._told = done, now, now
        elif now - self._told >= EVERY_SECONDS:
            self._told = now
            note(self._line(done, total, now - self._started))

    def _line(self, done: float, total: float, seconds: float) -> str:
        rate = (done - self._first_done) / seconds
        left = f", {duration((total - done) / rate)} left" if rate > 0 and total >= done else ""
        if not self._in_bytes:
            speed = f", {self._speed()}" if self._speed else ""
            return f"{self._label}: {done / total:.0%}{speed}{left}"
        return f"{self._label}: {size(int(done))} of {size(int(total))}, {size(int(rate))}/s{left}"


def duration(seconds: float) -> str:
    """Return a time in words, in its two largest units: 12 s, 3 min 20 s, 1 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
