"""This CPU -> how kernels ask memory for what they read next: by which instruction, how far ahead.

A step reads its weights once, in order. The CPU foresees that only within a page of 4 KB, so the
kernels ask further ahead. What an instruction then does differs between CPUs by more than a factor
of two: `nta` goes past the second-level cache, through as few buffers as the first level has, and
keeps Intel's prefetcher of the second level from running; on AMD's Zen 3 it is as good as `t1`.
"""

import contextlib
import os
import platform
import re
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from codegen_cli.machine import cpu
from quantize.files.errors import UserError

HINTS: dict[str, int | None] = {"none": None, "nta": 0, "t2": 1, "t1": 2, "t0": 3}
"""What x86 calls a prefetch instruction -> LLVM's number for it, its "locality"."""

_BYTES_AHEAD = 4096
_MOST_BYTES_AHEAD = 1 << 20


class Prefetch(NamedTuple):
    """How a kernel asks for what it reads in `bytes_ahead` bytes; hint is a key of HINTS."""

    hint: str
    bytes_ahead: int = _BYTES_AHEAD

    def __str__(self) -> str:
        return self.hint if self.hint == "none" else f"{self.hint}:{self.bytes_ahead}"


class CpuModel(NamedTuple):
    """What CPUID tells, as far as the system passes it on; "" and 0 where it does not."""

    vendor: str
    family: int
    model: int


class _Row(NamedTuple):
    """The prefetch for a vendor's CPUs of some families.

    Intel's server and client cores are all family 6, so this does not tell them apart.
    """

    vendor: str
    families: range
    prefetch: Prefetch


# The best of those that were measured, in tokens/s of the 350M shape on two cores.
_TABLE = (
    # Zen 3 (family 25, model 1): int4 after 32 ids nta 77, t1 76, t2 77, t0 54, none 65; int8 49,
    # 50, 49, 43, 46; after 1024 no way stands out (docs/performance.md). Zen 5 (family 26): nta
    # reads 0.96 of the limit, others were not tried. Of AMD's other families nothing is known that
    # speaks against it.
    _Row("AuthenticAMD", range(256), Prefetch("nta")),
    # Emerald Rapids, int4 and int8: t1 102-120 and 59-65, none 76-83 and 60-62, t0 83-98 and 53-59,
    # nta 42-44 and 26-27.
    _Row("GenuineIntel", range(6, 7), Prefetch("t1")),
)
_UNKNOWN = Prefetch("t1")


def prefetch_choice() -> Prefetch:
    """Return what CODEGEN_PREFETCH says, as t1 or t1:2048, else what is best on this CPU.

    Raises UserError for anything else in it.
    """
    forced = os.environ.get("CODEGEN_PREFETCH")
    if not forced:
        return _UNKNOWN if cpu.is_aimed_elsewhere() else best_for(cpu_model())
    hint, colon, distance = forced.partition(":")
    bytes_ahead = int(distance) if re.fullmatch("[0-9]{1,7}", distance) else 0
    if hint not in HINTS or (colon and not 0 < bytes_ahead <= _MOST_BYTES_AHEAD):
        raise UserError(
            f"CODEGEN_PREFETCH={forced}: there is no such way to prefetch",
            f"It is one of {', '.join(HINTS)}, and how many bytes ahead: t1, or t1:2048. Unset, "
            f"{best_for(cpu_model())} is taken here.",
        )
    return Prefetch(hint, bytes_ahead or _BYTES_AHEAD)


def best_for(model: CpuModel) -> Prefetch:
    """Return the best that is known for a CPU."""
    for row in _TABLE:
        if row.vendor == model.vendor and model.family in row.families:
            return row.prefetch
    return _UNKNOWN


def cpu_model(root: Path = Path("/")) -> CpuModel:
    """Return what the system says that CPUID says, and not LLVM, which guesses in virtual machines.

    root  where /proc is looked for
    """
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError), (root / "proc/cpuinfo").open(errors="replace") as lines:
        for line in takewhile(str.strip, lines):  # the first CPU is enough: there may be hundreds
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    words = [fields.get(key, "") for key in ("vendor_id", "cpu family", "model")]
    if os.name == "nt":  # "Intel64 Family 6 Model 158 Stepping 10, GenuineIntel"
        found = re.search(r"Family (\d+) Model (\d+) .*, (\w+)$", platform.processor())
        words = [found[3], found[1], found[2]] if found else words
    if not all(re.fullmatch("[0-9]{1,4}", word) for word in words[1:]):
        return CpuModel(words[0], 0, 0)
    return CpuModel(words[0], int(words[1]), int(words[2]))
