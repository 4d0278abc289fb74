"""What a command and Ray's process say to each other: pickles on two pipes.

    command                            Ray's process
    Task                        ->
                                <-     Note ..., Ready once there are workers to be had; or Alone
    Settings                    ->
                                <-     Wanted
    a list of Lines             ->
                                <-     Answers ..., Wanted
    an empty list               ->
                                       ends

Failure may come at any time, and is the last.
"""

import pickle
import traceback
from typing import Any, BinaryIO, NamedTuple

from codegen_cli.batch.answer_line import Answer
from codegen_cli.cluster.model_copy import SharedModel
from quantize.files.errors import UserError


class Task(NamedTuple):
    """What is to be done.

    address        as address.py has them
    model          which one answers
    n_threads      of a worker, and CPUs that it reserves; None: as many as the model keeps busy
    most_threads   more find no work in the model
    ignore_memory  as `session.loading.load` takes it
    home           CODEGEN_HOME where a node is started here, absolute; None: it is unset
    """

    address: str
    model: SharedModel
    n_threads: int | None
    most_threads: int
    ignore_memory: bool
    home: str | None


class Ready(NamedTuple):
    """The cluster is there, and so is a codegen like this one on each of its nodes."""


class Alone(NamedTuple):
    """This machine is in no cluster: another process is to make one."""


class Note(NamedTuple):
    """Something to tell the user."""

    text: str


class Wanted(NamedTuple):
    """More lines are wanted."""


class Answers(NamedTuple):
    """Answers to lines, in the order of the lines."""

    answers: list[Answer]


class Failure(NamedTuple):
    """Why there is no answer.

    is_bug  whether it is no user's to mend; the message is a traceback then
    """

    message: str
    hint: str = ""
    is_bug: bool = False

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return what to say of an error."""
        if isinstance(error, UserError):
            return cls(error.message, error.hint)
        return cls("".join(traceback.format_exception(error)), is_bug=True)

    def error(self) -> Exception:
        """Return what to raise."""
        return RuntimeError(self.message) if self.is_bug else UserError(self.message, self.hint)


def send(wire: BinaryIO, message: object) -> None:
    """Write a message; OSError once nobody reads."""
    pickle.dump(message, wire, pickle.HIGHEST_PROTOCOL)
    wire.flush()


def receive(wire: BinaryIO) -> Any:
    """Return the next message; EOFError once there will be no more."""
    try:
        return pickle.load(wire)
    except pickle.UnpicklingError as error:  # it ended in the middle of one
        raise EOFError from error
