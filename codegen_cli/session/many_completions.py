"""Requests and an engine -> what their completions make, in steps that they share."""

from collections.abc import Callable, Iterable, Iterator

from codegen_cli.contract.engine import Engine
from codegen_cli.contract.stream import Task
from codegen_cli.decoding.running_text import Ended, Text
from codegen_cli.decoding.scheduler import Scheduler
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.session.cache_room import OnShortage, cache_room, shortage
from codegen_cli.session.generation import Request
from quantize.files.errors import UserError

Item = Piece | Summary | UserError

TaskOf = Callable[[Request], Task]
"""Reads a request's prompt; raises UserError, and TypeError for what is no request."""


def run_many(
    engine: Engine,
    requests: Iterable[Request],
    task_of: TaskOf,
    on_shortage: OnShortage | None = None,
) -> Iterator[tuple[Request, Item]]:
    """Yield what completions make, as LanguageModel.generate_many tells."""
    room_bytes = cache_room(engine)
    scheduler, pending = Scheduler(engine, room_bytes), iter(requests)
    under_way: dict[Text, Request] = {}
    is_all = False
    n_taken = 0
    while not (is_all and scheduler.is_idle):
        while scheduler.wants_more and not is_all:
            try:
                request = next(pending)
            except StopIteration:
                is_all = True
                break
            try:
                task = task_of(request)
            except UserError as error:
                yield request, error
                continue
            under_way[scheduler.add(task)] = request
            n_taken += 1
            short = shortage(engine, room_bytes, task.n_positions) if on_shortage else None
            if on_shortage and short and n_taken > short.n_texts:
                on_shortage(short)
                on_shortage = None
        for text, item in scheduler.step():
            request = under_way[text]
            if isinstance(item, Ended):
                del under_way[text]
                if isinstance(item.error, UserError):
                    yield request, item.error
                elif item.error is not None:
                    raise item.error
            else:
                yield request, item
