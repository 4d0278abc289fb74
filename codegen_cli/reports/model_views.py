"""What there is of a model -> rows of a table, and the object of --json, that tell it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from codegen_cli.models.disk_use import DiskUse
from codegen_cli.models.inventory import FormatState, ModelState
from codegen_cli.models.leftovers import Leftover
from codegen_cli.models.registry import FORMATS, split_name
from codegen_cli.terminal import console

DISK_HEADERS = ("on disk", "number", "size", "where")
_ON_DISK = {
    "checkpoint": "checkpoints",
    "download": "unfinished downloads",
    "packed": "packed files",
    "unfinished": "unfinished packed files",
    "copy": "packed copies of checkpoints",
    "kernels": "compiled kernels",
    "triton": "kernels by Triton",
    "other": "other files in the cache",
}
LEFTOVER_HEADERS = ("what", "size", "where")
LIST_HEADERS = ("  model", "download", *(f"{format} needs" for format in FORMATS), "fits")
_OTHERS = "".join(f", else {format}" for format in FORMATS[1:])
FORMAT_RULE = f"a name without a format means {FORMATS[0]} if that is packed{_OTHERS}"


def list_row(state: ModelState, default: str | None, available: int | None) -> list[str]:
    """Return the cells under LIST_HEADERS.

    default    the default model, if one was chosen
    available  bytes of memory, None if unknown
    """
    cells = {each.format: _needs_cell(each) for each in state.formats}
    fitting = [each.format for each in state.formats if _fits(each, available)]
    fits = "all" if len(fitting) == len(FORMATS) else " ".join(fitting) or "none"
    return [
        ("* " if _is_default(state, default) else "  ") + state.name,
        _download_cell(state),
        *(cells.get(format, "-") for format in FORMATS),
        "?" if available is None else fits,
    ]


def disk_rows(uses: Sequence[DiskUse]) -> list[list[str]]:
    """Return the cells under DISK_HEADERS, the last row with the total."""
    rows = [
        [_ON_DISK[each.kind], str(each.count), console.size(each.bytes), str(each.directory)]
        for each in uses
    ]
    total = console.size(sum(each.bytes for each in uses))
    return [*rows, ["all of them", "", total, ""]]


def disk_object(uses: Sequence[DiskUse], leftovers: Iterable[Leftover]) -> dict[str, Any]:
    """Return what --json tells of the disk."""
    places = [
        {
            "kind": each.kind,
            "directory": str(each.directory),
            "count": each.count,
            "bytes": each.bytes,
        }
        for each in uses
    ]
    return {
        "places": places,
        "bytes": sum(each.bytes for each in uses),
        "prunable_bytes": sum(each.file_bytes for each in leftovers),
    }


def show_rows(
    state: ModelState, default: str | None, available: int | None
) -> list[tuple[str, str]]:
    """Return (what, value) rows that tell all of one model; arguments as of list_row."""
    rows = [("name", state.name + (" (the default)" if _is_default(state, default) else ""))]
    if entry := state.entry:
        origin = entry.repository or "comes with the program"
        rows += [("origin", origin), ("licence", entry.licence), ("family", entry.family)]
    rows += [(key, _text(value)) for key, value in state.dimensions.items()]
    rows.append(("checkpoint", str(state.checkpoint or "")))
    if not state.checkpoint:
        rows.append(("download", _download_cell(state)))
    for each in state.formats:
        rows.append((each.format or "file", _format_cell(each, available)))
    for path, provenance in state.provenance.items():
        rows.append(("packed file", path))
        rows += [(f"  {key}", text) for key, text in provenance.items()]
    return [row for row in rows if row[1]]


def as_object(state: ModelState, default: str | None, available: int | None) -> dict[str, Any]:
    """Return what --json tells of one model; arguments as of list_row."""
    entry = state.entry
    size = entry.size if entry else None
    return {
        "name": state.name,
        "is_bundled": state.is_bundled,
        "is_default": _is_default(state, default),
        "repository": (entry.repository or None) if entry else None,
        "revision": (entry.revision or None) if entry else None,
        "licence": (entry.licence or None) if entry else None,
        "family": (entry.family or None) if entry else None,
        "download_bytes": size.download_bytes if size and not state.is_bundled else None,
        "checkpoint": str(state.checkpoint) if state.checkpoint else None,
        "dimensions": state.dimensions,
        "formats": [
            {
                "format": each.format,
                "path": str(each.path) if each.path else None,
                "file_bytes": each.file_bytes,
                "memory_bytes": each.memory_bytes,
                "fits": _fits(each, available),
                "problem": each.problem or None,
                "provenance": state.provenance.get(str(each.path)),
            }
            for each in state.formats
        ],
    }


def leftover_object(leftover: Leftover) -> dict[str, Any]:
    """Return what --json tells of what can go."""
    return {
        "kind": leftover.kind,
        "path": str(leftover.path),
        "bytes": leftover.file_bytes,
        "model": leftover.model or None,
    }


def leftover_rows(leftovers: Iterable[Leftover]) -> list[list[str]]:
    """Return the cells under LEFTOVER_HEADERS."""
    return [
        [_ON_DISK[each.kind], console.size(each.file_bytes), str(each.path)] for each in leftovers
    ]


def freed_size(leftovers: Iterable[Leftover]) -> str:
    """Return what removing them gives back, in words."""
    return console.size(sum(each.file_bytes for each in leftovers))


def prune_line(leftovers: Sequence[Leftover], is_dry: bool) -> str:
    """Return what to tell of all that was removed, or would be."""
    if not leftovers:
        return "there is nothing to remove"
    return f"that {'would free' if is_dry else 'freed'} {freed_size(leftovers)}"


def prune_object(leftovers: Sequence[Leftover], is_dry: bool) -> dict[str, Any]:
    """Return what --json tells of all that was removed, or would be."""
    return {
        "would_remove" if is_dry else "removed": [leftover_object(each) for each in leftovers],
        "bytes": sum(each.file_bytes for each in leftovers),
    }


def nameless_lines(files: Iterable[Path]) -> Iterator[str]:
    """Yield what to do with files that no command finds."""
    for file in files:
        yield (
            f"{console.printable(str(file))} is not listed: a packed file there is called "
            "NAME.FORMAT.safetensors (codegen models import FILE takes it in)"
        )


def _fits(state: FormatState, available: int | None) -> bool | None:
    if available is None or state.memory_bytes is None:
        return None
    return state.memory_bytes <= available


def _is_default(state: ModelState, default: str | None) -> bool:
    return state.is_bundled if default is None else split_name(default)[0] == state.name


def _download_cell(state: ModelState) -> str:
    if state.checkpoint:
        return "done"
    if state.is_bundled:
        return "bundled"
    size = state.entry.size if state.entry else None
    return console.size(size.download_bytes) if size else "-"


def _needs_cell(state: FormatState) -> str:
    if state.memory_bytes is None:
        return "damaged"
    return f"{state.memory_bytes / 1e9:.1f} GB" + (" packed" if state.path else "")


def _format_cell(state: FormatState, available: int | None) -> str:
    if state.memory_bytes is None:
        return state.problem
    fits = _fits(state, available)
    verdict = {True: "fits", False: "does not fit now", None: "unknown whether it fits"}[fits]
    file, memory = console.size(state.file_bytes), console.size(state.memory_bytes)
    packed = "packed" if state.path else "not packed"
    return f"{packed}, file {file}, needs {memory} of memory: {verdict}"


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int and value >= 1_000_000 else str(value)
