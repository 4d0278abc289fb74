"""A team of threads that run one step together, and waiting for them in a way Ctrl-C can end."""

import ctypes
import os
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from codegen_cli.deadline import Deadline, check_deadline, remaining

T = TypeVar("T")

Step = Callable[[int, int], int]
"""A compiled step: (address of its table, thread number) -> 0 done, 1 cancelled. Holds no GIL."""

# The longest a wait lasts before Python looks for signals and deadlines again.
_POLL_SECONDS = 0.1


def yield_address() -> int:
    """Return the address of the C function that offers this core to another thread."""
    if os.name == "nt":
        function = ctypes.WinDLL("kernel32").SwitchToThread  # type: ignore[attr-defined, unused-ignore]
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Job:
    """One step, which runs at most once however often it is handed over."""

    def __init__(self, table: int) -> None:
        self.table = table
        self.is_finished = False


class Team:
    """Threads that sleep until a step is given to them.

    A signal handler may raise in the caller between any two lines, so the caller only hands a job
    over and looks whether it is finished; both may be repeated. A leader starts the other threads
    and waits for them.
    """

    def __init__(self, n_threads: int, step: Step) -> None:
        self.n_threads = n_threads
        self._step = step
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._job = _Job(0)
        self._job.is_finished = True
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._follower_tables: list[queue.SimpleQueue[int | None]] = [
            queue.SimpleQueue() for _ in range(1, n_threads)
        ]
        self._follower_ends: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._lead, daemon=True)] + [
            threading.Thread(target=self._follow, args=(number, tables), daemon=True)
            for number, tables in enumerate(self._follower_tables, start=1)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, table: int, cancel: npt.NDArray[np.int64], deadline: Deadline) -> None:
        """Run one step on all threads and return when it is done.

        table     address of a step_table.STEP record
        cancel    [1] int64 that the record points to

        Raises TimeUp when the deadline passes first, and whatever a signal handler raises
        (KeyboardInterrupt); the threads have left the step by then.
        """
        cancel[0] = 0
        self._job = _Job(table)
        try:
            check_deadline(deadline)
            self._jobs.put(self._job)
            while not self._job.is_finished:
                check_deadline(deadline)
                _poll(self._wakeups, deadline)
        except BaseException:
            cancel[0] = 1
            self._jobs.put(self._job)  # the exception may have come before the first time
            self.wait_until_idle()
            raise

    def wait_until_idle(self) -> None:
        """Return when no step runs any more."""
        while not self._job.is_finished:
            _poll(self._wakeups, None)

    def close(self) -> None:
        """End the threads."""
        self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _lead(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.is_finished:
                continue
            for tables in self._follower_tables:
                tables.put(job.table)
            self._step(job.table, 0)
            for _ in self._follower_tables:
                self._follower_ends.get()
            job.is_finished = True
            self._wakeups.put(None)
        for tables in self._follower_tables:
            tables.put(None)

    def _follow(self, number: int, tables: "queue.SimpleQueue[int | None]") -> None:
        while (table := tables.get()) is not None:
            self._follower_ends.put(self._step(table, number))


def _poll(source: "queue.SimpleQueue[T]", deadline: Deadline) -> T | None:
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

    threading.Thread(target=run, daemon=True).start()
    while (end := _poll(outcome, deadline)) is None:
        check_deadline(deadline)
    result, error = end
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
