"""What a stream yields and is sent: it asks for parts, and gets answers.

A stream is the state of one text. It yields the Part that it needs next and is sent an Answer, or
the part's error is thrown into it; whatever else it yields is what it makes. It calls no engine, so
whoever runs it may run many, and form each step of an engine from what all of them ask for.
"""

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from codegen_cli.contract.engine import Part

Made = TypeVar("Made")
End = TypeVar("End")


class Answer(NamedTuple):
    """What a part wanted, and the seconds that its step took."""

    result: Any
    seconds: float


Stream = Generator[Part | Made, Answer | None, End]
