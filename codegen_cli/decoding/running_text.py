"""A task -> what its stream makes, and what an engine is to read for it in the next step."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from codegen_cli.contract.engine import Part, Result
from codegen_cli.contract.stream import Answer, Task
from codegen_cli.decoding.asked_part import AskedPart
from codegen_cli.decoding.beginnings import Known


class Ended(NamedTuple):
    """How a text ended: what its stream returned, or the error that it raised."""

    value: Any = None
    error: BaseException | None = None


class Text:
    """A text under way, or waiting for its turn; raises TypeError for ids that are none.

    known      its cache, once it has one
    asked      what its stream waits for
    end        how it ended
    has_begun  whether its first part has been read

    A stream's answer, and how to go on with it, are kept until it goes on: an interruption between
    any two lines loses nothing, but for a stream that it hits itself. That one cannot go on.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.ids = list(task.ids)
        self.known: Known | None = None
        self.asked: AskedPart | None = None
        self.end: Ended | None = None
        self.has_begun = False
        self._stream: Any = None
        self._resume: Callable[[], Any] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun, and may."""
        return self.known is None and self.end is None

    def begin(self, known: Known) -> None:
        """Make the stream, with a cache of its own."""
        self.known = known
        self._stream = self.task.begin(known.cache)
        self._resume = partial(self._stream.send, None)

    def next_part(self, n: int) -> Part:
        """Return what a step reads of what was asked for: n ids, or all that are left."""
        assert self.asked is not None
        part = self.asked.chunk(n)
        del self._ids_read[part.cache.n_past :]
        return part

    def take(self, part: Part, outcome: Result | Exception, seconds: float) -> None:
        """Keep what a step made of its part."""
        assert self.asked is not None
        if isinstance(outcome, Exception):
            self.fail(outcome)
        else:
            self._ids_read.extend(part.ids)
            self.asked.take(len(part.ids), outcome, seconds)

    def fail(self, error: Exception) -> None:
        """Have the stream go on with an error."""
        assert self.asked is not None
        self.asked.forget()
        self._resume = partial(self._stream.throw, error)

    def go_on(self, events: "list[tuple[Text, Any]]", id_cost: float | None) -> None:
        """Have the stream go on if it can, until it asks for something or ends.

        events   take what it makes
        id_cost  as of an Answer
        """
        if self._resume is None and self.asked is None and self.end is None:
            self.end = Ended(error=KeyboardInterrupt("this text was being made"))
        if self._resume is None and self.asked is not None and self.asked.is_read:
            answer = Answer(self.asked.result(), self.asked.seconds, id_cost)
            self.has_begun = True
            self._resume = partial(self._stream.send, answer)
        while self._resume is not None:
            self.asked = None
            resume, self._resume = self._resume, None
            try:
                item = resume()
                if isinstance(item, Part):
                    self.asked = AskedPart(item)
                    return
            except StopIteration as end:
                self.end = Ended(end.value)
            except Exception as error:
                self.end = Ended(error=error)
            else:
                self._resume = partial(self._stream.send, None)
                events.append((self, item))

    def close(self) -> None:
        """End the stream; what it raises then is of no interest to anybody."""
        if self._stream is not None:
            with contextlib.suppress(Exception):
                self._stream.close()

    @property
    def _ids_read(self) -> list[int]:
        assert self.known is not None
        assert isinstance(self.known.ids, list)
        return self.known.ids
