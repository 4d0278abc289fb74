"""A packed file -> the memory that running it takes, beside what this machine has left."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codegen_cli import console
from codegen_cli.engine.buffers import CHUNK, Buffers
from codegen_cli.engine.kv_cache import cache_bytes
from codegen_cli.engine.system_files import control_groups, lines_of, number_in
from codegen_cli.store.registry import FORMATS, entries, split_name
from quantize.config import ModelConfig
from quantize.packed_file import PackedFile

PROGRAM_BYTES = 150_000_000
"""Python, its libraries, compiled kernels and the tokenizer, as models.toml counts them.

More than a warm start takes: measured on Linux as peak resident memory less file, that was 74 MB
(350M) and 97 MB (nano). The first start of all compiles, and takes some 200 MB more meanwhile.
"""


@dataclass(frozen=True, slots=True)
class Need:
    """The memory that a model takes while it runs.

    file_bytes    the packed file: mapped, and read whole for every token
    cache_bytes   keys and values of all n_positions, which one KVCache holds
    buffers_bytes the arrays of a step, on one thread: another adds a few KB
    """

    file_bytes: int
    cache_bytes: int
    buffers_bytes: int

    @property
    def bytes(self) -> int:
        """All of it, the program included."""
        return self.file_bytes + self.cache_bytes + self.buffers_bytes + PROGRAM_BYTES


def needed(config: ModelConfig, file_bytes: int) -> Need:
    """Return what running a packed file of this config and size takes."""
    buffers = Buffers(config, 1, min(CHUNK, config.n_positions))  # not written to: costs nothing
    return Need(file_bytes, cache_bytes(config), buffers.memory_bytes)


def warn_if_short(packed: PackedFile, name: str, available: int | None) -> None:
    """Say so on stderr when a packed file needs more memory than there is.

    available  bytes that programs may still take (available_bytes()); None: unknown, so say nothing
    """
    if available is None:
        return
    need = needed(packed.config, packed.path.stat().st_size)
    if need.bytes <= available:
        return
    from quantize.quantize_model import packed_bytes  # a run that fits does without

    smaller = [
        (f"{name}:{format}", needed(packed.config, packed_bytes(packed.config, format)).bytes)
        for format in _smaller_formats(packed.format)
    ]
    console.warn(_warning(name, need, available, smaller or _smaller_model(name)))


def _warning(name: str, need: Need, available: int, smaller: list[tuple[str, int]]) -> str:
    """Return the warning; smaller: names that need less, with their bytes, the largest first."""
    text = (
        f"{name} needs {console.size(need.bytes)} of memory (file {console.size(need.file_bytes)}, "
        f"cache {console.size(need.cache_bytes)}), {console.size(available)} are available: "
        "it may be very slow, or be ended by the system"
    )
    if not smaller:
        return text
    fitting = [each for each in smaller if each[1] <= available]
    other, other_bytes = (fitting or smaller[-1:])[0]
    return f"{text}; {other} needs {console.size(other_bytes)}"


def _smaller_formats(format: str) -> list[str]:
    """Return the formats that take less than this one, the largest first."""
    return list(reversed(FORMATS[: FORMATS.index(format)]))


def _smaller_model(name: str) -> list[tuple[str, int]]:
    """Return the next smaller models of a known model's family in its smallest format."""
    known = {entry.name: entry for entry in entries()}
    entry = known.get(split_name(name)[0])
    if entry is None or entry.size is None:
        return []
    parameters, smallest = entry.size.parameters, FORMATS[0]
    others = [
        (f"{other.name}:{smallest}", other.size.memory_bytes[smallest])
        for other in known.values()
        if other.size and other.repository and other.family == entry.family
        if other.size.parameters < parameters
    ]
    return sorted(others, key=lambda other: -other[1])


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that programs may still take before others must give up theirs.

    root  where /proc and /sys are looked for

    Linux: MemAvailable, or what the limits of this process's control groups leave if that is less.
    Windows: free physical memory. Elsewhere all that is installed, as the standard library tells no
    more: an upper bound. None where nothing is known.
    """
    if sys.platform == "win32":
        return _windows_available_bytes()
    stated = [*_mem_available(root), *_control_group_room(root)]
    return min(stated) if stated else installed_bytes()


def _mem_available(root: Path) -> Iterator[int]:
    """The kernel's estimate (proc(5)), which counts cached files, so mapped models too, as free."""
    for line in lines_of(root / "proc/meminfo"):
        key, _, value = line.partition(":")
        number = value.removesuffix("kB").strip()
        if key == "MemAvailable" and number.isdigit():
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
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _windows_available_bytes() -> int | None:
    """Return ullAvailPhys of GlobalMemoryStatusEx: the third of eight u64 in a MEMORYSTATUSEX."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    status = (ctypes.c_uint64 * 8)()
    status[0] = ctypes.sizeof(status)  # dwLength, a u32; dwMemoryLoad, after it, is an answer
    return status[2] if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None
