"""What there is of a model -> rows of a table, and the object of --json, that tell it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from codegen_cli.models.inventory import FormatState, ModelState
from codegen_cli.models.leftovers import Leftover
from codegen_cli.models.registry import FORMATS, split_name
from codegen_cli.terminal import console

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


def packed_lines(states: Iterable[ModelState]) -> Iterator[str]:
    """Yield what to tell of packed files, in each directory: how many, and their size."""
    sizes: dict[Path, list[int]] = {}
    for state in states:
        for each in state.formats if not state.is_bundled else ():
            if each.path:
                sizes.setdefault(each.path.parent, []).append(each.file_bytes)
    for directory, found in sizes.items():
        yield f"packed files in {directory}: {len(found)}, {console.size(sum(found))}"


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
    """Return what --json tells of a file that can go."""
    return {
        "kind": leftover.kind,
        "path": str(leftover.path),
        "bytes": leftover.file_bytes,
        "model": leftover.model or None,
    }


def leftover_lines(leftovers: Iterable[Leftover]) -> Iterator[str]:
    """Yield what to tell of files that can go: how many, where, and how to remove them."""
    groups: dict[tuple[str, Path], list[int]] = {}
    for each in leftovers:
        groups.setdefault((each.kind, each.path.parent), []).append(each.file_bytes)
    whats = {
        "copy": "packed copies of checkpoints",
        "unfinished": "unfinished files of killed runs",
        "download": "unfinished downloads",
    }
    for (kind, directory), sizes in groups.items():
        total = console.size(sum(sizes))
        yield f"{whats[kind]} in {directory}: {len(sizes)}, {total} (codegen models prune)"


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
