"""The seconds that the two phases of a completion took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["prefill", "decode"]


class PhaseTimes:
    """Seconds, each measured part added to its phase, also where it ends with an exception."""

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = {"prefill": 0.0, "decode": 0.0}

    @contextmanager
    def measured(self, phase: Phase) -> Iterator[None]:
        """Add the time of the block that follows."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started
