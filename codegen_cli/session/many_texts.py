"""Texts that are read, and an engine -> what their streams return, in steps that several share."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from codegen_cli.contract.engine import Engine
from codegen_cli.contract.stream import Task
from codegen_cli.decoding.running_text import Ended, Text
from codegen_cli.decoding.scheduler import Scheduler
from codegen_cli.session.cache_room import cache_room

OnProgress = Callable[[int, int], None]
"""Called with the tokens done and all tokens."""

# Texts that are taken while the first of them is not yet read to its end: their results are kept.
_MOST_AHEAD = 64


class _Reading:
    """How far a text is, and how it ended."""

    def __init__(self, end: Ended | None = None) -> None:
        self.progress: tuple[int, int] | None = None
        self.end = end


def read_texts(
    engine: Engine,
    texts: Iterator[str],
    task_of: Callable[[str], Task],
    on_progress: OnProgress | None = None,
) -> Iterator[Any]:
    """Yield what the stream of each text returns, in order, as soon as all before it are yielded.

    texts        taken as there is room for another
    task_of      whose stream makes progress: (tokens done, all tokens)
    on_progress  told of the text that is to be yielded next

    Raises what `texts`, `task_of` and a stream raise, when its turn has come.
    """
    scheduler = Scheduler(engine, cache_room(engine))
    in_order: deque[_Reading] = deque()
    under_way: dict[Text, _Reading] = {}
    is_all = False
    while True:
        while not is_all and scheduler.wants_more and len(in_order) < _MOST_AHEAD:
            reading = _Reading()
            try:
                text = next(texts, None)
                is_all = text is None
                if text is not None:
                    under_way[scheduler.add(task_of(text))] = reading
            except Exception as error:
                reading.end = Ended(error=error)
            if not is_all:
                in_order.append(reading)
        if not in_order:
            return
        _step(scheduler, under_way)
        yield from _ended(in_order, on_progress)


def _step(scheduler: Scheduler, under_way: dict[Text, _Reading]) -> None:
    for text, item in scheduler.step():
        if isinstance(item, Ended):
            under_way.pop(text).end = item
        else:
            under_way[text].progress = item


def _ended(in_order: deque[_Reading], on_progress: OnProgress | None) -> Iterator[Any]:
    """Yield the results of the first texts that have ended; raise what one of them raised."""
    while in_order:
        first = in_order[0]
        if on_progress and first.progress:
            on_progress(*first.progress)
        if first.end is None:
            return
        in_order.popleft()
        if first.end.error is not None:
            raise first.end.error
        yield first.end.value
