"""The seconds that the two phases of a completion took."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Literal

from codegen_cli.contract.engine import Part
from codegen_cli.contract.stream import Answer

Phase = Literal["prefill", "decode"]


class PhaseTimes:
    """Seconds, each measured part added to its phase, also where it ends with an exception."""

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = {"prefill": 0.0, "decode": 0.0}

    def asked(self, phase: Phase, part: Part) -> Generator[Part, Answer | None, Answer]:
        """Ask for a part; return the answer, its step's time added.

        An answer says what its step took, whatever the stream waited for besides. Where there is no
        answer, all of the wait counts.
        """
        started = time.perf_counter()
        try:
            answer = yield part
        except BaseException:
            self.seconds[phase] += time.perf_counter() - started
            raise
        assert answer is not None
        self.seconds[phase] += answer.seconds
        return answer

    @contextmanager
    def measured(self, phase: Phase) -> Iterator[None]:
        """Add the time of the block that follows."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started
