"""`codegen models rm`: a name -> its packed files or its checkpoint, gone if the user agrees."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from codegen_cli.hub import removal
from codegen_cli.hub.stored.cache import snapshot_dir
from codegen_cli.models.local_models import LocalFile, find_local_files, remove_file
from codegen_cli.models.registry import FORMATS, KnownModel, packed_path, resolve
from codegen_cli.terminal import console
from quantize.files.errors import UserError


def remove_packed(name: str, yes: bool) -> tuple[list[LocalFile], list[dict[str, Any]]]:
    """Remove packed files; return those that are gone, and what --json tells of those removed."""
    files = _packed_files(name)
    _ask_to_remove([(file.path, file.file_bytes) for file in files], yes)
    removed = []
    for file in files:
        file_bytes = file.file_bytes
        if remove_file(file.path):
            removed.append(_removed(file.path, file_bytes))
        else:
            console.note(f"{console.printable(str(file.path))} had been removed already")
    return files, removed


def _packed_files(name: str) -> list[LocalFile]:
    """Return a model's packed files; without any, the error tells of its checkpoint."""
    try:
        return find_local_files(name)
    except UserError as error:
        place = _checkpoint_place(name)
        if place is None:
            raise
        hint = f"Its checkpoint is in {place}: codegen models rm --checkpoint {name}"
        raise UserError(error.message, hint) from error


def _checkpoint_place(name: str) -> Path | None:
    """Return the directory in the Hugging Face cache of what a name means, complete or not."""
    try:
        found = resolve(name)
    except UserError:
        return None
    if not isinstance(found, KnownModel) or found.format is not None:
        return None
    return snapshot_dir(found.entry.repository, found.entry.revision)


def remove_checkpoint(name: str, yes: bool) -> tuple[list[LocalFile], list[dict[str, Any]]]:
    """Remove a checkpoint; the model's packed files count as gone where there are none."""
    found = resolve(name)
    if not isinstance(found, KnownModel) or found.format is not None:
        raise UserError(
            f"{name} names no checkpoint in the Hugging Face cache",
            "Give a name without a format, such as 350M-mono, or owner/name.",
        )
    plan = removal.plan_checkpoint_removal(found.entry)
    _ask_to_remove([(plan.directory, plan.freed_bytes)], yes)
    removal.remove_checkpoint(found.entry)
    packed = [LocalFile(found.name, each, packed_path(found.name, each)) for each in FORMATS]
    return packed, [_removed(plan.directory, plan.freed_bytes)]


def _ask_to_remove(files: Sequence[tuple[Path, int]], yes: bool) -> None:
    """Go on if the user agrees to remove files of so many bytes, else end the command."""
    if yes:
        return
    if not console.is_interactive():
        raise typer.BadParameter("removing needs --yes where nobody can be asked")
    listed = ", ".join(f"{path} ({console.size(n_bytes)})" for path, n_bytes in files)
    if not console.confirm(f"Remove {console.printable(listed)}?"):
        console.note("nothing was removed")
        raise typer.Exit(1)


def _removed(path: Path, n_bytes: int) -> dict[str, Any]:
    """Say that something was removed; return what --json tells of it."""
    console.note(f"removed {console.printable(str(path))}, {console.size(n_bytes)}")
    return {"path": str(path), "bytes": n_bytes}
