"""A stream and an engine -> what the stream makes of the engine's answers."""

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from codegen_cli.contract.engine import Engine, Part
from codegen_cli.contract.stream import Answer, End, Made
from codegen_cli.decoding.step_costs import StepCosts
from codegen_cli.session.one_part import run_part


def drive(engine: Engine, stream: Generator[Any, Answer | None, End]) -> Generator[Any, None, End]:
    """Run one stream alone; yield what it makes and return what it returns.

    Raises what the stream raises; an error of a part that the stream does not handle is among that.
    """
    step, costs = partial(stream.send, None), StepCosts()
    while True:
        try:
            item = step()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if isinstance(item, Part):
            step = _reply(engine, stream, item, costs)
        else:
            yield item
            step = partial(stream.send, None)


def _reply(
    engine: Engine, stream: Generator[Any, Answer | None, End], part: Part, costs: StepCosts
) -> "partial[Any]":
    """Run a part; return what tells the stream how it ended."""
    started = time.perf_counter()
    try:
        result = run_part(engine, part)
    except BaseException as error:
        return partial(stream.throw, error)
    seconds = time.perf_counter() - started
    if len(part.ids) <= engine.n_read:  # else it took several steps
        costs.learn(len(part.ids), seconds)
    return partial(stream.send, Answer(result, seconds, costs.id_cost(1)))


def finish(stream: Generator[Made, None, End], take: Callable[[Made], object] | None = None) -> End:
    """Run a drive to its end; return what the stream returns.

    take  told of each thing that the stream makes; None: it makes nothing, or ValueError is raised
    """
    while True:
        try:
            made = next(stream)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if take is None:
            raise ValueError(f"the stream makes {made!r}")
        take(made)
