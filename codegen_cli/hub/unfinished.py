"""The Hugging Face cache -> the parts of files that killed downloads left there, and their removal.

A program that fetches a file holds the hub's lock on it, which the system takes back however the
program ends: who gets the lock knows that nobody writes the part. Newer parts have names of their
own and are never continued. Other people's repositories are left alone, though any program may
have died over them: only those of CodeGen checkpoints are looked at.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from codegen_cli.hub import cache as hub_cache
from codegen_cli.hub.entries import entries
from quantize.files.errors import UserError
from quantize.files.input_file import read_input
from quantize.files.json_object import parse_json_object

_PART = re.compile(r"(.+?)(\.[0-9a-f]{8})?\.incomplete", re.DOTALL)
_LARGEST_CONFIG_BYTES = 1 << 20


def unfinished_downloads(repository: str | None = None) -> list[Path]:
    """Return the parts that nobody writes to, of one repository or of all with CodeGen checkpoints.

    None at all where the cache is missing or cannot be read.
    """
    if repository is not None:
        directory = hub_cache.repository_dir(repository)
        return sorted(_parts(directory)) if directory else []
    found = _listed(hub_cache.cache_dir(), "models--*")
    return sorted(part for each in found for part in _parts(each) if _is_ours(each))


def remove_unfinished_download(part: Path) -> bool:
    """Remove a part unless somebody writes to it by now; tell whether it was removed."""
    if not _is_abandoned(part):
        return False
    try:
        part.unlink()
    except OSError:
        return False
    return True


def remove_unfinished_downloads(repository: str) -> Iterator[tuple[Path, int]]:
    """Remove what killed downloads of one repository left; yield each part and its bytes."""
    for part in unfinished_downloads(repository):
        try:
            part_bytes = part.stat().st_size
        except OSError:  # it has gone meanwhile
            continue
        if remove_unfinished_download(part):
            yield part, part_bytes


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
        if _is_abandoned(path):
            yield path


def _listed(directory: Path, pattern: str) -> list[Path]:
    try:
        return list(directory.glob(pattern))
    except OSError:
        return []


def _is_ours(repository_dir: Path) -> bool:
    """Tell whether a repository is one of models.toml, or holds a CodeGen checkpoint's config."""
    known = (hub_cache.repository_dir(entry.repository) for entry in entries())
    if repository_dir in known:
        return True
    return any(map(_is_codegen, _listed(repository_dir, "snapshots/*/config.json")))


def _is_codegen(config: Path) -> bool:
    try:
        fields = parse_json_object(read_input(config, _LARGEST_CONFIG_BYTES), str(config))
    except UserError:
        return False
    return fields.get("model_type") == "codegen"


def _is_abandoned(part: Path) -> bool:
    """Tell whether a part is a plain file that nobody has the lock on."""
    try:
        return not part.is_symlink() and part.is_file() and _is_free(part)
    except OSError:
        return False


def _is_free(part: Path) -> bool:
    """Tell whether nobody has the lock on a part."""
    from filelock import FileLock, Timeout

    match = _PART.fullmatch(part.name)
    if match is None:
        return False
    repository_dir = part.parent.parent
    lock = repository_dir.parent / ".locks" / repository_dir.name / f"{match[1]}.lock"
    try:
        if lock.exists():  # else nobody holds it, and none is made to look
            with FileLock(lock, timeout=0):
                pass
    except (Timeout, OSError, NotImplementedError):  # held, or it cannot be told
        return False
    return True
