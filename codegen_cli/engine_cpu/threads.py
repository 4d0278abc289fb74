"""A team of threads that run one step together, and waiting for them in a way Ctrl-C can end."""

import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.interruption import poll
from codegen_cli.engine_cpu.team_size import CoreTime, TeamSize, core_time

Step = Callable[[int, int], int]
"""A compiled step: (address of its table, thread number) -> 0 done, 1 cancelled. Holds no GIL."""

Check = Callable[[], None]
"""Raises once a step is not to be waited for any longer."""

FillTable = Callable[[int, int], int]
"""Writes a step_table.STEP record: (address of an int64 that cancels the step, threads that will
run it) -> the record's address.

The leader calls it when the step's turn has come.
"""


def yield_address() -> int:
    """Return the address of the C function that offers this core to another thread."""
    if os.name == "nt":
        function = ctypes.WinDLL("kernel32").SwitchToThread  # type: ignore[attr-defined, unused-ignore]
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Job:
    """One step of one caller, with everything it needs until it is finished.

    cancel  set to 1 to end the step early
    """

    def __init__(self, fill_table: FillTable) -> None:
        self.fill_table = fill_table
        self.cancel = ctypes.c_int64(0)
        self.ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.is_finished = False
        self._claims = threading.Lock()

    def claim(self) -> bool:
        """Tell whether nobody asked before: the leader, who runs the job, or who drops it."""
        return self._claims.acquire(blocking=False)


class Team:
    """Threads that sleep until a step is given to them; several callers take turns, step by step.

    Not all run each step: those that other programs keep from running are left out for a while.

    A signal handler may raise in a caller between any two lines, so a caller holds no lock: it only
    hands a job over and looks whether it is finished. A leader takes the jobs in their order; it
    alone writes to what the steps share, starts the other threads and waits for them.
    """

    def __init__(self, n_threads: int, step: Step) -> None:
        self.n_threads = n_threads
        self._step = step
        self._size = TeamSize(n_threads)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._follower_tables: list[queue.SimpleQueue[int | None]] = [
            queue.SimpleQueue() for _ in range(1, n_threads)
        ]
        self._follower_ends: queue.SimpleQueue[CoreTime] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._lead, daemon=True)] + [
            threading.Thread(target=self._follow, args=(number, tables), daemon=True)
            for number, tables in enumerate(self._follower_tables, start=1)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, fill_table: FillTable, check: Check, deadline: Deadline = None) -> None:
        """Run one step, after those asked for before, and return when it is done.

        check     raises what ends the step early; it is called again and again
        deadline  when to call it at the latest; None: any time will do

        Raises what check raises, and whatever a signal handler raises (KeyboardInterrupt); the
        threads have left the step by then. ValueError once the team is closed.
        """
        job = _Job(fill_table)
        try:
            check()
            self._jobs.put(job)
            while not self._is_over(job):
                check()
                poll(job.ends, deadline)
        except BaseException:
            job.cancel.value = 1
            while not (job.claim() or self._is_over(job)):
                poll(job.ends, None)
            raise
        if not job.is_finished:
            raise ValueError("the model is closed")

    def close(self) -> None:
        """End the threads once they have done what was asked for so far, and wait for them."""
        self._jobs.put(None)
        # One of them may be here itself, collecting garbage: then nothing runs any more.
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def _is_over(self, job: _Job) -> bool:
        """Tell whether nothing more will happen to a job: it is finished, or nobody leads."""
        somebody_leads = self._threads[0].is_alive()  # asked first: the leader's last job counts
        return job.is_finished or not somebody_leads

    def _lead(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.claim():
                self._run_job(job)
            del job  # and with it a caller's arrays, perhaps a whole model
        for tables in self._follower_tables:
            tables.put(None)

    def _run_job(self, job: _Job) -> None:
        n_followers = self._size.now - 1
        table = job.fill_table(ctypes.addressof(job.cancel), self._size.now)
        started = time.perf_counter()
        for tables in self._follower_tables[:n_followers]:
            tables.put(table)
        core_times = [self._run_step(table, 0)]
        core_times += [self._follower_ends.get() for _ in range(n_followers)]
        self._size.learn(time.perf_counter() - started, core_times)
        job.is_finished = True
        job.ends.put(None)

    def _follow(self, number: int, tables: "queue.SimpleQueue[int | None]") -> None:
        while (table := tables.get()) is not None:
            self._follower_ends.put(self._run_step(table, number))

    def _run_step(self, table: int, number: int) -> CoreTime:
        """Run a thread's part of a step; return what it got of the cores meanwhile."""
        before = core_time()
        self._step(table, number)
        return core_time().since(before)
