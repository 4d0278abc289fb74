"""How long each thread of a step was kept from its core -> how many threads take the next step.

A step's threads wait for each other some hundred times a token. One whose core runs another program
for a time slice of some milliseconds holds up all others for as long, so that two threads can be
slower than one. Whoever lost a core is left out for a while, and then tried again.
"""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

# A team shrinks when its threads lost their cores for so much of the last steps. What is shorter
# than half a millisecond is waking up, or nothing to act upon.
_LOST_SHARE = 0.25
_LOST_SECONDS = 0.0005

# Another program keeps a core for a time slice, a millisecond at the least. Threads that change
# places more often are two of the team on one core: the system soon moves one of them away.
_SHORTEST_SLICE_SECONDS = 0.001

# The last steps are those of about so long, or four: some may be held up by chance.
_MEMORY_SECONDS = 0.04
_MOST_WEIGHT = 0.25

# Steps that a smaller team takes before all are tried again: twice as many after each such try
# that failed. Each costs some slow steps.
_FIRST_PAUSE = 16
_LONGEST_PAUSE = 128


class CoreTime(NamedTuple):
    """What a thread got of the cores, in all or in one step.

    seconds      it was running
    n_preempted  times that it could have run on and another thread was given its core. Where it
                 waits for a disk it is not: then more threads mean more reads at once
    """

    seconds: float
    n_preempted: int

    def since(self, before: "CoreTime") -> "CoreTime":
        return CoreTime(self.seconds - before.seconds, self.n_preempted - before.n_preempted)


def core_time() -> CoreTime:
    """Return what the calling thread got so far; only Linux tells, elsewhere it is all zero."""
    if sys.platform != "linux":
        return CoreTime(0.0, 0)
    import resource

    # The seconds in there are those at the last tick, some milliseconds ago.
    n_preempted = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    return CoreTime(time.thread_time(), n_preempted)


class TeamSize:
    """The number of threads for the next step, 1 to n_threads; the first step has them all."""

    def __init__(self, n_threads: int) -> None:
        self.now = n_threads
        self._all = n_threads
        self._pause = _FIRST_PAUSE
        self._n_steps = 0  # with `now` threads
        self._lost_share = 0.0  # of those steps, the later the more; the worst thread of each

    def learn(self, seconds: float, core_times: Sequence[CoreTime]) -> None:
        """Take in a step of `now` threads.

        seconds     from its start to its end
        core_times  [now] what each thread got in it
        """
        lost = [_lost_share(seconds, got) for got in core_times]
        weight = min(_MOST_WEIGHT, seconds / _MEMORY_SECONDS)
        self._lost_share += weight * (max(lost) - self._lost_share)
        self._n_steps += 1
        n_lost = sum(share > _LOST_SHARE for share in lost)
        if n_lost and self._lost_share > _LOST_SHARE and self.now > 1:
            if self.now == self._all and self._n_steps <= self._pause:
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._change_to(max(1, self.now - n_lost))
        elif self._n_steps == self._pause:
            if self.now == self._all:
                self._pause = _FIRST_PAUSE
            else:
                self._change_to(self._all)

    def _change_to(self, n_threads: int) -> None:
        self.now = n_threads
        self._n_steps, self._lost_share = 0, 0.0


def _lost_share(seconds: float, got: CoreTime) -> float:
    """Return the share of a step in which another program had a thread's core."""
    lost_seconds = seconds - got.seconds
    most_slices = 1 + seconds / _SHORTEST_SLICE_SECONDS
    if lost_seconds < _LOST_SECONDS or not 0 < got.n_preempted <= most_slices:
        return 0.0
    return lost_seconds / seconds
