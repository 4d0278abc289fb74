"""This process -> a copy of it that works beside it and answers its questions, on Linux.

Questions and answers are made of what marshal knows: numbers, text, bytes, None, and collections of
these.
"""

import contextlib
import marshal
import os
import select
import signal
import sys
import threading
from typing import Any, BinaryIO, NoReturn, Self

from codegen_cli.contract.deadline import Deadline, check_deadline, remaining

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LENGTH_BYTES = 8


class Child:
    """A process that works and answers; fork_child makes one."""

    def __init__(self, process: int, answers: BinaryIO, questions: BinaryIO) -> None:
        self._process = process
        self._answers = answers
        self._questions = questions

    def receive(self, deadline: Deadline = None) -> Any:
        """Return the next answer; None if there is none, because the child has failed.

        Raises TimeUp, and what a signal handler raises.
        """
        if deadline is not None:
            while not select.select([self._answers], [], [], remaining(deadline))[0]:
                check_deadline(deadline)
        return receive(self._answers)

    def ask(self, question: Any) -> Any:
        """Return the answer to a question; None as in `receive`."""
        try:
            send(self._questions, question)
        except OSError:  # nobody is there to read it
            return None
        return receive(self._answers)

    def close(self) -> None:
        """End it, whatever it is doing, and wait until it is gone: some milliseconds."""
        # Asked for first: where SIGCHLD is ignored its number may be another process's by now.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            ended, _ = os.waitpid(self._process, os.WNOHANG)
            if not ended:
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
        self._answers.close()
        with contextlib.suppress(OSError):  # a question that nobody read is still in there
            self._questions.close()


class Parent:
    """The process that this one is a copy of; a context manager at whose end this one ends.

    An exception only ends it: the parent finds that nothing comes any more.
    """

    def __init__(self, questions: BinaryIO, answers: BinaryIO) -> None:
        self._questions = questions
        self._answers = answers

    def answer(self, value: Any) -> None:
        """Send an answer."""
        send(self._answers, value)

    def question(self) -> Any:
        """Return the next question; None when there will be no more."""
        return receive(self._questions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> NoReturn:
        os._exit(0)


def fork_child() -> "Child | Parent | None":
    """Start a copy of this process: return its Child, and in the copy its Parent.

    The copy has what this process has imported and made, but neither its stdin nor its stdout and
    stderr. None where there can be no such process, or where it would gain nothing.
    """
    if not _can_fork():
        return None
    pipes: list[int] = []
    # A signal that comes between fork and _settle would run handlers of this process in both.
    handled = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        process = os.fork()
    except OSError:  # no process, or no pipe, is to be had
        for handle in pipes:
            os.close(handle)
        signal.pthread_sigmask(signal.SIG_SETMASK, handled)
        return None
    answers, its_answers, its_questions, questions = pipes
    if process == 0:
        return _settle(its_questions, its_answers, (answers, questions), handled)
    os.close(its_answers)
    os.close(its_questions)
    signal.pthread_sigmask(signal.SIG_SETMASK, handled)
    return Child(process, os.fdopen(answers, "rb"), os.fdopen(questions, "wb"))


def _can_fork() -> bool:
    """Whether a copy of this process is sound, and has a core of its own to run on.

    fork copies one thread only: what others hold locked stays locked in the copy for ever. NumPy
    stands for the libraries that start threads of their own; all of them come after it.
    """
    return (
        sys.platform == "linux"
        and threading.active_count() == 1
        and "numpy" not in sys.modules
        and len(os.sched_getaffinity(0)) > 1
    )


def _settle(
    source: int, target: int, not_its: tuple[int, int], signals: set[int | signal.Signals]
) -> "Parent":
    """Make the copy let go of what is not its own."""
    try:
        for handle in not_its:  # or it would keep its own questions from ending
            os.close(handle)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        # Whoever reads the output waits for the end of all processes that could write to it.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        return Parent(os.fdopen(source, "rb"), os.fdopen(target, "wb"))
    except BaseException:
        os._exit(0)


def send(wire: BinaryIO, value: Any) -> None:
    """Write a value that marshal knows, for `receive`."""
    data = marshal.dumps(value)
    wire.write(len(data).to_bytes(_LENGTH_BYTES) + data)
    wire.flush()


def receive(wire: BinaryIO) -> Any:
    """Return the value that was sent; None once nobody can send any more."""
    length = int.from_bytes(wire.read(_LENGTH_BYTES))
    data = wire.read(length)
    return marshal.loads(data) if length and len(data) == length else None
