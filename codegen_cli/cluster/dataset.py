"""Lines, a portion at a time -> their answers in the same order, by Ray Data.

A portion's lines become blocks of some tens of lines. map_batches hands them to a pool of workers:
Ray Data schedules, keeps back what nobody takes yet, and starts workers again that die; what they
had in hand is done once more. The command gives portions of bounded size (answering.py), as there
is no source for Ray Data that reads a pipe, or gives each line the key that all lines before it
decide. Each portion is an execution of its own: workers load the model again, which takes seconds,
where a portion takes minutes and more. Nodes that joined meanwhile have workers from then on.
"""

import warnings
from collections.abc import Iterator, Sequence

import ray
import ray.data
from ray.exceptions import RayError, RayTaskError
from ray.util.annotations import RayDeprecationWarning

from codegen_cli.batch.answer_line import Answer
from codegen_cli.batch.line import Line
from codegen_cli.cluster.messages import Failure
from codegen_cli.cluster.nodes import Team, last_line
from codegen_cli.cluster.tables import items_of, table_of
from codegen_cli.cluster.worker import Work, Worker
from quantize.files.errors import UserError

# A worker may be started again so often; what dies once more does so by no accident.
MOST_RESTARTS = 3

# Some are done while others are read; the last of a block leave a worker's steps partly empty, and
# a worker that dies leaves all of it to be done again.
_MOST_LINES = 128
_MOST_BYTES = 16 << 20
_BLOCKS_EACH = 2  # so that all workers end at about the same time


def answer_portion(lines: Sequence[Line], work: Work, team: Team) -> Iterator[list[Answer]]:
    """Yield the answers to lines in their order, some at a time.

    Raises UserError for what a worker found that a user can mend, and for workers that keep dying.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    blocks = [table_of(block) for block in _blocks(lines, team.n_workers)]
    answers = ray.data.from_arrow(blocks)
    with warnings.catch_warnings():
        # Until 2.64, which pyproject.toml excludes, there is no other way to say how often.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        answers = answers.map_batches(
            Worker,
            fn_constructor_args=[work],
            batch_size=None,  # a block at a time
            batch_format="pyarrow",
            num_cpus=team.n_threads,
            # Those that find nothing more to do go before all is done, and make room for those
            # whose node has gone.
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=team.n_workers,
                initial_size=team.n_workers,
                max_tasks_in_flight_per_actor=2,
            ),
            max_restarts=MOST_RESTARTS,
            max_task_retries=-1,  # as long as the worker is started again, or waits for a place
        )
    try:
        for block in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield _answers(items_of(block))
    except RayTaskError:  # an exception in a worker: a bug
        raise
    except RayError as error:
        raise UserError(
            f"a worker of the cluster died again and again, {MOST_RESTARTS + 1} times: "
            f"{last_line(error)}",
            "Was memory short on its node? Ray's logs there tell more; the same command goes on.",
        ) from error


def _answers(items: Sequence[Answer | Failure]) -> list[Answer]:
    answers = []
    for item in items:
        if isinstance(item, Failure):
            raise item.error()
        answers.append(item)
    return answers


def _blocks(lines: Sequence[Line], n_workers: int) -> Iterator[list[Line]]:
    n_lines = min(_MOST_LINES, -(-len(lines) // (_BLOCKS_EACH * n_workers)))
    block: list[Line] = []
    n_bytes = 0
    for line in lines:
        block.append(line)
        n_bytes += len(line.content)
        if len(block) == n_lines or n_bytes > _MOST_BYTES:
            yield block
            block, n_bytes = [], 0
    if block:
        yield block
