"""What the system grants this process -> the cores to run on, and so the threads of a team.

Threads wait for each other some hundred times a token. Two on one physical core get little more
done than one, and one that loses its core to another holds up all, as does one on a slow core: so
a thread for each physical core that is as fast as the others, and no more than the control groups'
quota pays for.
"""

import os
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from codegen_cli.machine.system_files import control_groups, lines_of, number_in

# No CPU has more threads in a core (POWER has 8). A virtual machine that says so is not believed.
_MOST_SIBLINGS = 8

# A core with less than this share of the fastest one's capacity is slow. A half would count the
# small cores of an RK3588, which have 530 of 1024 in Linux's device tree.
_SLOW_SHARE = 0.65


@dataclass(frozen=True, slots=True)
class Cores:
    """What this process may use.

    n_cpus   CPUs, as the system counts them, that its affinity mask allows
    n_cores  physical cores that these belong to; as many as CPUs where nothing is known
    quota    CPU seconds a second that its control groups allow; None: no limit
    n_slow   of the cores, those of a slower kind than others: efficiency cores
    """

    n_cpus: int
    n_cores: int
    quota: float | None
    n_slow: int = 0

    @property
    def n_threads(self) -> int:
        """Threads to run a model on: at least one."""
        return max(1, min(self.n_cores - self.n_slow, self.n_at_once))

    @property
    def n_at_once(self) -> int:
        """Threads that can run at the same time, on slow cores too: at least one.

        A quota is rounded down: 1.5 gives one thread. Two would use it up before each period's
        end, waiting for each other included, and then stand still.
        """
        paid = self.n_cores if self.quota is None else int(self.quota)
        return max(1, min(self.n_cores, paid))

    @property
    def reason(self) -> str:
        """Say in words where n_threads comes from."""
        text = f"{_counted(self.n_cores, 'core')} for this process"
        if self.n_cpus != self.n_cores:
            text += f", which count as {_counted(self.n_cpus, 'CPU')}"
        if self.n_slow:
            text += f"; {_counted(self.n_slow, 'slower one')} left out"
        if self.quota is not None:
            text += f"; its quota pays for {self.quota:g}"
        return text


def usable_cores(root: Path = Path("/"), cpus: Set[int] | None = None) -> Cores:
    """Return what this process may use.

    root  where /proc and /sys are looked for
    cpus  the CPUs it may run on; None: ask the system

    Where the system tells nothing of cores (macOS, Windows), each CPU counts as one.
    """
    cpus = _allowed_cpus() if cpus is None else cpus
    cores = {_siblings(cpu, root) for cpu in cpus}
    fast = {_siblings(cpu, root) for cpu in _fast_cpus(cpus, root)}
    quotas = list(_quotas(root))
    return Cores(len(cpus), len(cores), min(quotas) if quotas else None, len(cores - fast))


def _fast_cpus(cpus: Set[int], root: Path) -> Set[int]:
    """Return those of a hybrid CPU's faster kind, or all where there is one kind.

    Linux has a list of the performance cores on Intel's hybrids
    (https://docs.kernel.org/admin-guide/perf/intel-hybrid.html), and each CPU's capacity on arm64
    (Documentation/ABI/testing/sysfs-devices-system-cpu).
    """
    devices = root / "sys/devices"
    performance = "".join(lines_of(devices / "cpu_core/cpus"))
    if fast := cpus & _listed(performance, most=max(cpus, default=0)):
        return fast
    capacities = {cpu: number_in(devices / f"system/cpu/cpu{cpu}/cpu_capacity") for cpu in cpus}
    known = [capacity for capacity in capacities.values() if capacity is not None]
    least = _SLOW_SHARE * max(known, default=0)
    return {cpu for cpu, capacity in capacities.items() if capacity is None or capacity >= least}


def _allowed_cpus() -> Set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int, root: Path) -> frozenset[int]:
    """Return the CPUs that share a core with this one, itself among them.

    https://docs.kernel.org/admin-guide/cputopology.html; the second name is that of new kernels.
    """
    directory = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    for name in ("thread_siblings_list", "core_cpus_list"):
        siblings = _listed("".join(lines_of(directory / name)))
        if cpu in siblings and len(siblings) <= _MOST_SIBLINGS:
            return siblings
    return frozenset({cpu})


def _listed(text: str, most: int = _MOST_SIBLINGS) -> frozenset[int]:
    """Return the numbers in "0-1,8", of a range about `most`; none if it is not of that kind."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        try:
            start, end = int(first), int(last or first)
        except ValueError:
            return frozenset()
        numbers.update(range(start, min(end, start + most) + 1))
    return frozenset(numbers)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU seconds a second of each group that has a limit."""
    for version, group in control_groups("cpu", root):
        if version == 2:
            words = "".join(lines_of(group / "cpu.max")).split()  # "150000 100000", "max 100000"
        else:
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # "-1": no limit
            words = ["".join(lines_of(group / name)).strip() for name in files]
        if len(words) == 2 and all(word.isascii() and word.isdecimal() for word in words):
            quota_us, period_us = map(int, words)
            if quota_us and period_us:
                yield quota_us / period_us


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
