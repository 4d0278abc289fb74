"""A stretch of time -> the cores that other programs kept busy in it, which makes speeds lower."""

import os
import time
from pathlib import Path

from codegen_cli.machine.system_files import lines_of

NOTICEABLE_CORES = 0.3
"""Less than this is what any machine does beside; more shows in the speeds."""


class OtherPrograms:
    """Counts from when it is made; only Linux tells, in /proc/stat.

    root  where /proc is looked for
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._busy_before = _busy_seconds(root)
        self._own_before, self._started = time.process_time(), time.monotonic()

    def cores(self) -> float | None:
        """Return how many cores' worth of time went elsewhere since; None: not known."""
        busy, elapsed = _busy_seconds(self._root), time.monotonic() - self._started
        if busy is None or self._busy_before is None or elapsed <= 0:
            return None
        own = time.process_time() - self._own_before
        return max(0.0, (busy - self._busy_before - own) / elapsed)


def _busy_seconds(root: Path) -> float | None:
    """Return the seconds that all CPUs were not idle, those that the hypervisor took included.

    https://docs.kernel.org/filesystems/proc.html: user nice system idle iowait irq softirq steal
    """
    words = next(iter(lines_of(root / "proc/stat")), "").split()
    if len(words) < 9 or words[0] != "cpu" or not all(word.isdecimal() for word in words[1:9]):
        return None
    ticks = [int(word) for word in words[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
