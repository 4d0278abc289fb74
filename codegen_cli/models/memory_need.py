"""A packed file -> the memory that running it takes; refused or warned of where there is less."""

from dataclasses import dataclass

from codegen_cli.engine_cpu.buffers import CHUNK, Buffers
from codegen_cli.engine_cpu.kv_cache import cache_bytes
from codegen_cli.hub.entries import entries, known_entry
from codegen_cli.machine.memory import MemoryLimit
from codegen_cli.models.registry import FORMATS, name_with_format
from codegen_cli.terminal import console
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile

PROGRAM_BYTES = 150_000_000
"""Python, its libraries, compiled kernels and the tokenizer, as models.toml counts them.

More than a warm start takes: measured on Linux as peak resident memory less file, that was 74 MB
(350M) and 97 MB (nano). The first start of all compiles, and takes some 200 MB more meanwhile.
"""


@dataclass(frozen=True, slots=True)
class Need:
    """The memory that a model takes while it runs.

    file_bytes    the packed file: mapped, and read whole for every token
    cache_bytes   keys and values of the texts that are under way at a time
    buffers_bytes the arrays of a step, on one thread: another adds some 100 KB
    """

    file_bytes: int
    cache_bytes: int
    buffers_bytes: int

    @property
    def bytes(self) -> int:
        """All of it, the program included."""
        return self.file_bytes + self.cache_bytes + self.buffers_bytes + PROGRAM_BYTES


def needed(
    config: ModelConfig, file_bytes: int, n_texts: int = 1, n_positions: int | None = None
) -> Need:
    """Return what running a packed file of this config and size takes.

    n_texts      under way at a time
    n_positions  of each, its completion included; None: all that the model can see
    """
    buffers = Buffers(config, 1, min(CHUNK, config.n_positions))  # not written to: costs nothing
    return Need(file_bytes, n_texts * cache_bytes(config, n_positions), buffers.memory_bytes)


def judge_memory(
    packed: PackedFile, name: str, available: int | None, limit: MemoryLimit | None
) -> None:
    """Refuse a packed file that needs more memory than there can be; warn if it is not free now.

    available  bytes that programs may still take (available_bytes()); None: unknown
    limit      what this process can have at most (memory_limit()); None: unknown, or of no interest

    Raises UserError with the numbers and what needs less.
    """
    need = needed(packed.config, packed.path.stat().st_size)
    if limit is not None and need.bytes > limit.bytes:
        smaller = _smaller(packed, name, limit.bytes)
        raise UserError(
            f"{_need(name, need)}, {_limit(limit)}",
            f"{smaller and f'{smaller}. '}--ignore-memory (ignore_memory=True in Python) runs it "
            "all the same: what does not fit is read from the disk for every token.",
        )
    if available is not None and need.bytes > available:
        smaller = _smaller(packed, name, available)
        console.warn(
            f"{_need(name, need)}, {console.size(available)} are available: it may be very slow, "
            f"or be ended by the system{smaller and f'; {smaller}'}"
        )


def _need(name: str, need: Need) -> str:
    return (
        f"{name} needs {console.size(need.bytes)} of memory (file {console.size(need.file_bytes)}, "
        f"cache {console.size(need.cache_bytes)})"
    )


def _limit(limit: MemoryLimit) -> str:
    size = console.size(limit.bytes)
    if limit.group is None:
        return f"this machine has {size}"
    return f"its control group, {limit.group}, is limited to {size}"


def _smaller(packed: PackedFile, name: str, most_bytes: int) -> str:
    """Return what to say of a model that needs less: the best that fits, else the least; or ""."""
    formats, models = _smaller_formats(packed, name), _smaller_models(name)
    fitting = [each for each in (*formats, *models) if each[1] <= most_bytes]
    named = fitting[:1] or formats[-1:] or models[-1:]
    return "".join(f"{other} needs {console.size(other_bytes)}" for other, other_bytes in named)


def _smaller_formats(packed: PackedFile, name: str) -> list[tuple[str, int]]:
    """Return the same model in formats that take less, with their bytes, the largest first."""
    from quantize.packed.sizes import packed_bytes

    config, name = packed.config, name.removesuffix(f".{packed.format}")
    return [
        (name_with_format(name, format), needed(config, packed_bytes(config, format)).bytes)
        for format in reversed(FORMATS[: FORMATS.index(packed.format)])
    ]


def _smaller_models(name: str) -> list[tuple[str, int]]:
    """Return the next smaller models of a known model's family in its smallest format."""
    entry = known_entry(name)
    if entry is None or entry.size is None:
        return []
    parameters, smallest = entry.size.parameters, FORMATS[0]
    others = [
        (f"{other.name}:{smallest}", other.size.memory_bytes[smallest])
        for other in entries()
        if other.size and other.repository and other.family == entry.family
        if other.size.parameters < parameters
    ]
    return sorted(others, key=lambda other: -other[1])
