"""A stream that asks for parts, and an engine -> what the stream makes of the answers.

A stream is the state of one text. It yields the Part that it needs next and is sent an Answer, or
the part's error is thrown into it; whatever else it yields is what it makes. It calls no engine, so
whoever runs it may run many, and form each step of an engine from what all of them ask for.
"""

import time
from collections.abc import Generator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from codegen_cli.contract.engine import Engine, Part
from codegen_cli.contract.one_part import run_part

Made = TypeVar("Made")
End = TypeVar("End")


class Answer(NamedTuple):
    """What a part wanted, and the seconds that its step took."""

    result: Any
    seconds: float


Stream = Generator[Part | Made, Answer | None, End]


def drive(engine: Engine, stream: Generator[Any, Answer | None, End]) -> Generator[Any, None, End]:
    """Run one stream alone; yield what it makes and return what it returns.

    Raises what the stream raises; an error of a part that the stream does not handle is among that.
    """
    step = partial(stream.send, None)
    while True:
        try:
            item = step()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if isinstance(item, Part):
            step = _reply(engine, stream, item)
        else:
            yield item
            step = partial(stream.send, None)


def _reply(
    engine: Engine, stream: Generator[Any, Answer | None, End], part: Part
) -> "partial[Any]":
    """Run a part; return what tells the stream how it ended."""
    started = time.perf_counter()
    try:
        result = run_part(engine, part)
    except BaseException as error:
        return partial(stream.throw, error)
    return partial(stream.send, Answer(result, time.perf_counter() - started))


def finish(stream: Generator[Any, None, End]) -> End:
    """Run a stream, or a drive of one, that makes nothing; return what it returns."""
    try:
        made = next(stream)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise ValueError(f"the stream makes {made!r}")
