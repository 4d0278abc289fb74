"""A packed file -> the memory that running it takes; a warning where there is less."""

from dataclasses import dataclass

from codegen_cli.engine_cpu.buffers import CHUNK, Buffers
from codegen_cli.engine_cpu.kv_cache import cache_bytes
from codegen_cli.hub.entries import entries
from codegen_cli.models.registry import FORMATS, split_name
from codegen_cli.terminal import console
from quantize.description.config import ModelConfig
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
    cache_bytes   keys and values of all n_positions, which one KVCache holds
    buffers_bytes the arrays of a step, on one thread: another adds some 100 KB
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
    from quantize.packed.sizes import packed_bytes

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
