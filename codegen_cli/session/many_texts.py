"""Streams that read a text each, and an engine -> what they return, in steps that several share."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from codegen_cli.contract.engine import Engine, Part
from codegen_cli.contract.stream import Answer, Stream

if TYPE_CHECKING:  # a completion needs nothing of it
    from codegen_cli.scoring.windows import Progress

OnProgress = Callable[[int, int], None]
"""Called with the tokens done and all tokens."""

End = TypeVar("End")


_LONG = 10_000
"""Characters of a text that is encoded only when no other waits for it: that takes some time."""


def read_texts(
    engine: Engine,
    texts: Iterator[str],
    stream_of: "Callable[[str], Stream[Progress, End]]",
    on_progress: OnProgress | None = None,
) -> Iterator[End]:
    """Yield what the stream of each text returns, in order, as soon as all before it are yielded.

    texts        taken while those under way ask for fewer than n_read ids together, which is what
                 fills a step: so a long text is read alone, and at most n_read short ones at once
    on_progress  told of the text that is to be yielded next

    Raises what `texts`, `stream_of` and a stream raise, when its turn has come.
    """
    waiting = _Waiting(texts, stream_of)
    under_way: deque[_Text[End]] = deque()
    while True:
        while _has_room(engine, under_way):
            stream = waiting.stream(is_alone=not under_way)
            if stream is None:
                break
            under_way.append(_Text(stream))
        if not under_way:
            return
        _step(engine, [text for text in under_way if text.part])
        while under_way:
            first = under_way[0]
            if on_progress and first.progress:
                on_progress(*first.progress)
            if first.part:
                break
            under_way.popleft()
            yield first.result()


def _has_room(engine: Engine, texts: "deque[_Text[End]]") -> bool:
    return max(len(texts), sum(text.n_asked for text in texts)) < engine.n_read


class _Waiting(Generic[End]):
    """Texts that have no stream yet."""

    def __init__(
        self, texts: Iterator[str], stream_of: "Callable[[str], Stream[Progress, End]]"
    ) -> None:
        self._texts, self._stream_of = texts, stream_of
        self._next: str | None = None

    def stream(self, *, is_alone: bool) -> "Stream[Progress, End] | None":
        """Return the next text's, or one that raises why there is none.

        None at the end, and for a long text until it is to be alone.
        """
        try:
            if self._next is None:
                self._next = next(self._texts, None)
            if self._next is None or (len(self._next) > _LONG and not is_alone):
                return None
            text, self._next = self._next, None
            return self._stream_of(text)
        except Exception as error:
            return _failing(error)


class _Text(Generic[End]):
    """A stream under way: the part that it asks for, and how far it is."""

    def __init__(self, stream: "Stream[Progress, End]") -> None:
        self.part: Part | None = None
        self.progress: Progress | None = None
        self._stream = stream
        self._error: Exception | None = None
        self._end: End
        self.go_on(partial(stream.send, None))

    @property
    def n_asked(self) -> int:
        """How many ids it wants to be read."""
        return len(self.part.ids) if self.part else 0

    def go_on(self, step: "Callable[[], Part | Progress]") -> None:
        """Have the stream do all that it can without an engine."""
        self.part = None
        try:
            while not isinstance(item := step(), Part):
                self.progress = item
                step = partial(self._stream.send, None)
            self.part = item
        except StopIteration as end:
            self._end = end.value
        except Exception as error:
            self._error = error

    def take(self, outcome: object, seconds: float) -> None:
        """Give the stream what its part came to."""
        if isinstance(outcome, Exception):
            self.go_on(partial(self._stream.throw, outcome))
        else:
            self.go_on(partial(self._stream.send, Answer(outcome, seconds)))

    def result(self) -> End:
        """Return what the stream returned; raises what it raised."""
        if self._error:
            raise self._error
        return self._end


def _step(engine: Engine, texts: Sequence[_Text[End]]) -> None:
    """Run one step with what all of them ask for."""
    started = time.perf_counter()
    outcomes = engine.forward([text.part for text in texts if text.part])
    seconds = time.perf_counter() - started
    for text, outcome in zip(texts, outcomes, strict=True):
        text.take(outcome, seconds)


def _failing(error: Exception) -> "Stream[Progress, Any]":
    yield from ()
    raise error
