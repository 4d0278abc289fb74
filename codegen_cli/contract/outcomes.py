"""Parts and an engine's way to go on with some of them -> what each part wanted, or its error."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.engine import Cancelled, Part, Result
from codegen_cli.contract.part_checks import check_in_time
from quantize.files.errors import UserError


class Reading(Protocol):
    """How far a part has been read.

    outcome  None while more is to be read
    """

    part: Part
    outcome: Result | Exception | None


R = TypeVar("R", bound=Reading)


def outcomes(
    parts: Sequence[Part], begin: Callable[[Part], R], step: Callable[[Sequence[R]], None]
) -> list[Result | Exception]:
    """Return the outcome of each part, as Engine.forward does.

    begin  raises ValueError for a part that does not fit
    step   reads on for as many of these as it has room for, at least one, or sets their outcome;
           between steps deadlines and cancel flags are looked at
    """
    begun = [_begun(part, begin) for part in parts]
    readings = [each for each in begun if not isinstance(each, Exception)]
    while waiting := [each for each in readings if each.outcome is None]:
        if not _ended(waiting):
            step(waiting)
    return [each if isinstance(each, Exception) else _outcome(each) for each in begun]


def _begun(part: Part, begin: Callable[[Part], R]) -> R | Exception:
    try:
        return begin(part)
    except (ValueError, UserError) as error:
        return error


def _ended(readings: Sequence[Reading]) -> bool:
    """End those of which nothing more is to be computed; tell whether there are any."""
    n_ended = 0
    for reading in readings:
        try:
            check_in_time(reading.part)
        except (TimeUp, Cancelled) as error:
            reading.outcome = error
            n_ended += 1
    return n_ended > 0


def _outcome(reading: Reading) -> Result | Exception:
    assert reading.outcome is not None
    return reading.outcome
