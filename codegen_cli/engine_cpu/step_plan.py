"""Readings that wait -> which of their ids the next step takes, and what it makes of them."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import LogProbabilities, Result, Wanted
from codegen_cli.engine_cpu.reading import Chunk, Reading
from quantize.files.errors import UserError


class Kind(NamedTuple):
    """What a step computes of the ids of which something is wanted: the same of all."""

    wanted: Wanted
    never: Collection[int] = ()


class StepPlan(NamedTuple):
    """The ids of a step, text after text, and what is wanted of them.

    taken  the texts, each with its ids
    kind   None: nothing is wanted of any
    """

    taken: Sequence[tuple[Reading, Chunk]]
    kind: Kind | None

    @property
    def n_wanted(self) -> int:
        """Of how many ids something is wanted."""
        return sum(chunk.n_wanted for _, chunk in self.taken)

    @property
    def wanted_ids(self) -> npt.NDArray[np.int64]:
        """Which of the step's ids are wanted."""
        wanted: list[int] = []
        end = 0
        for _, chunk in self.taken:
            end += len(chunk.tokens)
            wanted += range(end - chunk.n_wanted, end)
        return np.array(wanted, np.int64)

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """Of the wanted ids, if they have any."""
        return np.concatenate([each.sound.targets[chunk.rows] for each, chunk in self.taken])

    def hand_out(self, result: Result | None) -> None:
        """Give each text what it wanted of the step's ids, and count them as read."""
        start = 0
        for reading, chunk in self.taken:
            rows = slice(start, start + chunk.n_wanted)
            start = rows.stop
            reading.take(chunk, None if result is None else _rows_of(result, rows))


def plan_step(readings: Sequence[Reading], most_ids: int) -> StepPlan:
    """Return a step of at most so many ids, the first texts before others.

    A text that wants something else of its ids than those before it waits for another step, and
    one for whose keys and values there is no memory ends.
    """
    taken: list[tuple[Reading, Chunk]] = []
    kind, room = None, most_ids
    for reading in readings:
        if room == 0:
            break
        chunk = reading.next_chunk(room)
        own = _kind_of(reading) if chunk.n_wanted else kind
        if kind is not None and own != kind:
            continue
        try:
            reading.make_room(chunk)
        except UserError as error:
            reading.outcome = error
            continue
        kind = own
        taken.append((reading, chunk))
        room -= len(chunk.tokens)
    return StepPlan(taken, kind)


def _kind_of(reading: Reading) -> Kind:
    part = reading.part
    return Kind(part.wanted, part.never if part.wanted == "log_probabilities" else ())


def _rows_of(result: Result, rows: slice) -> Result:
    if isinstance(result, LogProbabilities):
        return result.rows(rows)
    return result[rows]
