"""Work that cannot be interrupted -> a wait for it that Ctrl-C and a deadline can end."""

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from codegen_cli.contract.deadline import Deadline, check_deadline, remaining

T = TypeVar("T")

# The longest a wait lasts before Python looks for signals and deadlines again.
_POLL_SECONDS = 0.1


def poll(source: "queue.SimpleQueue[T]", deadline: Deadline) -> T | None:
    """Return an item, or None after a while: on Windows no signal interrupts a wait."""
    seconds = remaining(deadline)
    try:
        return source.get(timeout=_POLL_SECONDS if seconds is None else min(seconds, _POLL_SECONDS))
    except queue.Empty:
        return None


def run_interruptibly(work: Callable[[], T], deadline: Deadline = None) -> T:
    """Return work(), run in a thread of its own so that Ctrl-C and the deadline end the wait.

    Compiling spends seconds inside LLVM, where Python handles no signal. Abandoned work goes on
    until the process ends. Raises what `work` raises, and TimeUp.
    """
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:
            outcome.put((None, error))

    # In the caller's context: there the console knows whether it may speak.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), daemon=True)
    thread.start()
    while (end := poll(outcome, deadline)) is None:
        check_deadline(deadline)
    thread.join()  # it is at its end: whoever counts threads finds it gone
    result, error = end
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
