"""The Hugging Face cache -> the parts of files that downloads left there, and their removal.

A program that fetches a file holds the hub's lock on it, which the system takes back however the
program ends: who gets the lock knows that nobody writes the part. Our own parts (part.py) wait for
the next download; those of other programs have names of their own and are never continued. Other
people's repositories are left alone, though any program may have died over them: only those of
CodeGen checkpoints are looked at.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from codegen_cli.hub.entries import entries
from codegen_cli.hub.stored import cache as hub_cache
from codegen_cli.hub.stored.blob_lock import is_free
from codegen_cli.hub.stored.part import (
    PART_SUFFIX,
    SUMS_SUFFIX,
    Begun,
    part_path,
    read_begun,
    remove_part,
    sums_path,
)
from quantize.files.errors import UserError
from quantize.files.input_file import read_input
from quantize.files.json_object import parse_json_object

# The client's own part, or ours with its sums: each begins with the name of its blob.
_PART = re.compile(r"(.+?)(\.[0-9a-f]{8}|\.codegen|\.codegen\.sums)?\.incomplete", re.DOTALL)
_LARGEST_CONFIG_BYTES = 1 << 20
_ARCHITECTURES = ("codegen", "gptj")


def unfinished_downloads(repository: str | None = None) -> list[Path]:
    """Return the parts that nobody writes to, of one repository or of all with CodeGen checkpoints.

    The sums of a part are not listed, unless they are all that is left of it. None at all where the
    cache is missing or cannot be read.
    """
    if repository is not None:
        directory = hub_cache.repository_dir(repository)
        return sorted(_parts(directory)) if directory else []
    found = _listed(hub_cache.cache_dir(), "models--*")
    return sorted(part for each in found for part in _parts(each) if _is_ours(each))


def files_of(part: Path) -> list[Path]:
    """Return a part and what goes with it: its sums."""
    return [part, sums_path(_blob_of(part))] if part.name.endswith(PART_SUFFIX) else [part]


def remove_unfinished_download(part: Path) -> bool:
    """Remove a part unless somebody writes to it by now; tell whether it was removed."""
    if not _is_abandoned(part):
        return False
    try:
        part.unlink()
        if is_continued(part):
            remove_part(_blob_of(part))
    except OSError:
        return False
    return True


def remove_foreign_parts(repository: str) -> Iterator[tuple[Path, int]]:
    """Remove what killed runs of other programs left of one repository; yield part and bytes."""
    for part in unfinished_downloads(repository):
        try:
            part_bytes = part.stat().st_size
        except OSError:  # it has gone meanwhile
            continue
        if not is_continued(part) and remove_unfinished_download(part):
            yield part, part_bytes


def is_continued(part: Path) -> bool:
    """Tell whether the next download goes on with a part."""
    return part.name.endswith((PART_SUFFIX, SUMS_SUFFIX))


def begun_files(repository: str, revision: str) -> dict[Path, Begun]:
    """Return what has been begun of a revision and waits for the next download, by its blob."""
    directory = hub_cache.repository_dir(repository)
    sums = _listed(directory / "blobs", f"*{SUMS_SUFFIX}") if directory else []
    found = {_blob_of(path): read_begun(path) for path in sorted(sums)}
    return {blob: begun for blob, begun in found.items() if begun and begun.revision == revision}


def begun_bytes(repository: str, revision: str) -> int:
    """Return how much has been fetched of what is begun of a revision."""
    sizes = (_bytes_of(part_path(blob)) for blob in begun_files(repository, revision))
    return sum(sizes)


def is_being_fetched(repository: str) -> bool:
    """Tell whether a program fetches a file of a repository now, or whether that cannot be told."""
    directory = hub_cache.repository_dir(repository)
    every = _listed(directory / "blobs", "*.incomplete") if directory else []
    return not all(map(_is_free, every))


def checkpoint_repositories() -> list[Path]:
    """Return the cache's directories of repositories with CodeGen checkpoints, whole or not."""
    return sorted(path for path in _listed(hub_cache.cache_dir(), "models--*") if _is_ours(path))


def _parts(repository_dir: Path) -> Iterator[Path]:
    for path in _listed(repository_dir / "blobs", "*.incomplete"):
        is_beside = path.name.endswith(SUMS_SUFFIX) and part_path(_blob_of(path)).exists()
        if not is_beside and _is_abandoned(path):
            yield path


def _listed(directory: Path, pattern: str) -> list[Path]:
    try:
        return list(directory.glob(pattern))
    except OSError:
        return []


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_ours(repository_dir: Path) -> bool:
    """Tell whether a repository is one of models.toml, or holds a checkpoint's config or part."""
    known = (hub_cache.repository_dir(entry.repository) for entry in entries())
    if repository_dir in known or any(map(is_continued, _listed(repository_dir, "blobs/*"))):
        return True
    return any(map(_is_of_ours, _listed(repository_dir, "snapshots/*/config.json")))


def _is_of_ours(config: Path) -> bool:
    try:
        fields = parse_json_object(read_input(config, _LARGEST_CONFIG_BYTES), str(config))
    except UserError:
        return False
    return fields.get("model_type") in _ARCHITECTURES


def _is_abandoned(part: Path) -> bool:
    """Tell whether a part is a plain file that nobody has the lock on."""
    try:
        return not part.is_symlink() and part.is_file() and _is_free(part)
    except OSError:
        return False


def _is_free(part: Path) -> bool:
    """Tell whether nobody has the lock on what a part is of."""
    return _PART.fullmatch(part.name) is not None and is_free(_blob_of(part))


def _blob_of(part: Path) -> Path:
    match = _PART.fullmatch(part.name)
    return part.with_name(match[1] if match else part.name)
