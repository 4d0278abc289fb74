"""What this machine has of memory, how much of it is allowed, and what programs may still take."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codegen_cli.machine.system_files import control_groups, lines_of, number_in


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What a process can never have more of; group: whose limit it is, None: all is installed."""

    bytes: int
    group: Path | None = None


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """Return the smallest of what is installed and of what this process's control groups allow.

    root  where /proc and /sys are looked for

    Hard limits only: at a soft one (memory.high) the system slows a group down. A limit on address
    space (ulimit -v) is no such limit: a file that does not fit into it cannot be mapped at all.
    None where nothing is known.
    """
    limits = [MemoryLimit(number, group) for number, group in _group_limits(root)]
    installed = next(_stated(root, "MemTotal"), None) or installed_bytes()
    if installed is not None:
        limits.append(MemoryLimit(installed))
    return min(limits, key=lambda limit: limit.bytes, default=None)


def _group_limits(root: Path) -> Iterator[tuple[int, Path]]:
    for version, group in control_groups("memory", root):
        limit_bytes = number_in(group / _GROUP_FILES[version][0])
        if limit_bytes is not None:
            yield limit_bytes, group


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that programs may still take before others must give up theirs.

    root  where /proc and /sys are looked for

    Linux: MemAvailable, or what the limits of this process's control groups leave if that is less.
    Windows: free physical memory. Elsewhere all that is installed, as the standard library tells no
    more: an upper bound. None where nothing is known.
    """
    if sys.platform == "win32":
        return _windows_memory()[_AVAIL_PHYS]
    # The kernel's estimate (proc(5)) counts cached files, so mapped models too, as free.
    stated = [*_stated(root, "MemAvailable"), *_control_group_room(root)]
    return min(stated) if stated else installed_bytes()


def _stated(root: Path, what: str) -> Iterator[int]:
    """Yield the bytes that /proc/meminfo states of something."""
    for line in lines_of(root / "proc/meminfo"):
        key, _, value = line.partition(":")
        number = value.removesuffix("kB").strip()
        if key == what and number.isdigit():
            yield int(number) * 1024


# Of a control group: the files that hold its limit and usage, and the counters in memory.stat of
# file pages, which can be dropped at need.
# https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/memory.html
_GROUP_FILES = {
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def _control_group_room(root: Path) -> Iterator[int]:
    """Yield limit - usage + file pages of each limited group that this process is in."""
    for version, group in control_groups("memory", root):
        limit, usage, reclaimable = _GROUP_FILES[version]
        limit_bytes, used_bytes = number_in(group / limit), number_in(group / usage)
        if limit_bytes is not None and used_bytes is not None:
            file_bytes = sum(_statistics(group / "memory.stat", reclaimable))
            yield max(limit_bytes - max(used_bytes - file_bytes, 0), 0)


def _statistics(path: Path, keys: tuple[str, ...]) -> Iterator[int]:
    for line in lines_of(path):
        key, _, value = line.partition(" ")
        if key in keys and value.isdigit():
            yield int(value)


def installed_bytes() -> int | None:
    """Return the memory that this machine has; None where the standard library cannot tell."""
    if sys.platform == "win32":
        return _windows_memory()[_TOTAL_PHYS]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


# Of the eight u64 in a MEMORYSTATUSEX: ullTotalPhys and ullAvailPhys.
_TOTAL_PHYS, _AVAIL_PHYS = 1, 2


def _windows_memory() -> list[int | None]:
    """Return what GlobalMemoryStatusEx tells, in its order; None for each if it fails."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    status = (ctypes.c_uint64 * 8)()
    status[0] = ctypes.sizeof(status)  # dwLength, a u32; dwMemoryLoad, after it, is an answer
    return list(status) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else [None] * 8
