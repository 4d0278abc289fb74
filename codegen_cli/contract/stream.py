"""What a stream yields and is sent: it asks for parts, and gets answers.

A stream is the state of one text. It yields the Part that it needs next and is sent an Answer, or
the part's error is thrown into it; whatever else it yields is what it makes. It calls no engine, so
whoever runs it may run many, and form each step of an engine from what all of them ask for.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.engine import Cache, Part

Made = TypeVar("Made")
End = TypeVar("End")


class Answer(NamedTuple):
    """What a part wanted, and what that cost.

    seconds  of the steps that computed it, whole, whatever else they computed
    id_cost  what one more id would cost now: the share of all ids a second that would be lost by
             it, unless it holds; None: not known yet
    """

    result: Any
    seconds: float
    id_cost: float | None = None


Stream = Generator[Part | Made, Answer | None, End]


class Task(NamedTuple):
    """A text to be run among others.

    begin        makes its stream, given the cache that is its own
    n_positions  that this cache is for
    ids          that it reads first: where another text has read some of them, the cache begins
                 with those, but never with all
    deadline     after which it waits for its turn no longer
    """

    begin: Callable[[Cache], Stream[Any, Any]]
    n_positions: int
    ids: Sequence[int] = ()
    deadline: Deadline = None
