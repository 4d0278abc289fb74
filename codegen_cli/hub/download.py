"""A model entry -> its checkpoint's directory in the Hugging Face cache, fetched and compared.

What arrives counts as there once its hash is the one that the hub states: what was there before is
compared too. The hub's client is imported when a download begins, and not before the settings that
it reads have been judged.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from codegen_cli.hub import cache as hub_cache
from codegen_cli.hub import settings as hub_settings
from codegen_cli.hub.cache import (
    AGAIN_HINT,
    cached_file,
    hash_of_name,
    remove_file,
    whole_checkpoint,
)
from codegen_cli.hub.checkpoint_files import (
    INDEX_SUFFIX,
    WEIGHTS,
    companions,
    first_weights,
    shards,
)
from codegen_cli.hub.content_hash import HashCheck, check_hash
from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.unfinished import is_being_fetched, remove_unfinished_downloads
from codegen_cli.terminal import console
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.hub.client import HubRepository


@dataclass(frozen=True, slots=True)
class DownloadEvent:
    """How far a download is: the file being fetched, or checked, and the bytes of all files."""

    file: str
    done_bytes: int
    total_bytes: int
    is_check: bool = False


OnEvent = Callable[[DownloadEvent], None]


def download(
    entry: ModelEntry, on_event: OnEvent = lambda event: None, *, force: bool = False
) -> Path:
    """Fetch what a checkpoint needs (config, tokenizer, one kind of weights) into the cache.

    force  ask the hub though all is there: the newest files are fetched, and those again whose
           hashes are not the hub's. One that is sound stays, whatever the network does.

    Returns its directory; without `force` a checkpoint that is complete there is returned without
    asking the hub. Raises UserError: nothing to download, no access, no network, no room, a broken
    answer, or a file that did not arrive as the hub has it; that one is removed.
    """
    if not entry.repository:
        raise UserError(f"{entry.name} is bundled: there is nothing to download")
    if not force and (cached := whole_checkpoint(entry)):
        return cached
    hub_settings.require_usable()
    for part, part_bytes in remove_unfinished_downloads(entry.repository):
        size = console.size(part_bytes)
        console.note(f"removed {part}, {size}: a download that was killed left it")
    if is_being_fetched(entry.repository):
        console.note(f"another program is downloading {entry.repository}: its files are waited for")
    return _fetch_checkpoint(entry, on_event)


def import_client() -> ModuleType:
    """Return the module on the hub's client. Raises UserError if that cannot be imported."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints why it cannot be imported
            from codegen_cli.hub import client as hub_client
    except Exception as error:  # it acts on the environment while it is imported
        raise UserError(
            f"the hub's client cannot be imported: {type(error).__name__}: {error}",
            "Install it again: pip install --force-reinstall huggingface_hub",
        ) from error
    return hub_client


@dataclass(frozen=True, slots=True)
class _Job:
    """A download under way: what is wanted, what the hub states of it, and who is told."""

    entry: ModelEntry
    client: ModuleType
    repository: "HubRepository"
    on_event: OnEvent


def _fetch_checkpoint(entry: ModelEntry, on_event: OnEvent) -> Path:
    client = import_client()
    repository = client.read_repository(entry)
    job = _Job(entry, client, repository, on_event)
    files = repository.files
    names = [*companions(files), first_weights(files) or WEIGHTS[0]]
    _require_files(entry, names, files)
    if names[-1].endswith(INDEX_SUFFIX):
        [index] = _provide(replace(job, on_event=lambda event: None), names[-1:])
        names += shards(index)
        _require_files(entry, names, files)
    return _provide(job, names)[0].parent


def _provide(job: _Job, names: Sequence[str]) -> list[Path]:
    """Return the files' paths in the cache, each as the hub has it: fetched if it was not there.

    What is there and is not as the hub has it gives way.
    """
    commit = job.repository.commit
    cached = (cached_file(job.entry.repository, name, commit) for name in names)
    there = {name: path for name, path in zip(names, cached, strict=True) if path}
    damaged = {check.path.name for check in _damaged(job, there.values())}
    for name in damaged:
        console.warn(f"{there[name]} is damaged: fetching it again")
        remove_file(there.pop(name))
    missing = [name for name in names if name not in there]
    sizes = {name: job.repository.files[name].file_bytes for name in names}
    _require_room(sum(sizes[name] for name in missing))
    progress = _Progress(job.on_event, sum(sizes[name] for name in there), sum(sizes.values()))
    fetched = {name: _fetch(job, name, progress, anew=name in damaged) for name in missing}
    _refuse(job.entry, _damaged(job, fetched.values()))
    return [(there | fetched)[name] for name in names]


def _fetch(job: _Job, name: str, progress: "_Progress", *, anew: bool) -> Path:
    progress.start(name)
    path: Path = job.client.fetch_file(job.entry, name, progress.advance, anew=anew)
    if path.parent.name != job.repository.commit:
        _refuse(job.entry, _compared({path: hash_of_name(path)}))
        raise UserError(f"{job.entry.repository} changed while it was downloaded", AGAIN_HINT)
    return path


def _damaged(job: _Job, paths: Iterable[Path]) -> list[HashCheck]:
    """Return the files that are not as the hub states, or as their blobs' names do if it does not.

    What has no hash at all (another server than the Hugging Face hub) is told of.
    """
    stated = {path: job.repository.files[path.name].hash or hash_of_name(path) for path in paths}
    for path, need in stated.items():
        if not need:
            console.warn(f"{hub_settings.endpoint()} states no hash of {path.name}: not compared")
    return _compared(stated, job.on_event)


def _compared(
    stated: Mapping[Path, str], on_event: OnEvent = lambda event: None
) -> list[HashCheck]:
    """Hash the files for which a hash is stated; return those that have another."""
    needs = {path: need for path, need in stated.items() if need}
    progress = _Progress(on_event, 0, sum(path.stat().st_size for path in needs), is_check=True)
    checks = []
    for path, need in needs.items():
        progress.start(path.name)
        checks.append(check_hash(path, need, progress.advance))
    return [check for check in checks if not check.is_sound]


def _refuse(entry: ModelEntry, damaged: Sequence[HashCheck]) -> None:
    """Remove the files that arrived damaged, and raise a UserError that names them, if any did."""
    for check in damaged:
        remove_file(check.path)
    if damaged:
        raise UserError(
            "; ".join(
                f"{entry.repository}: {check.path.name} arrived damaged: {check.difference()}"
                for check in damaged
            ),
            f"It was removed, what is sound stays. Run again: codegen download {entry.name}",
        )


class _Progress:
    """The bytes of all files, reported as they arrive or are read."""

    def __init__(
        self, on_event: OnEvent, done_bytes: int, total_bytes: int, *, is_check: bool = False
    ) -> None:
        self.on_event = on_event
        self.done_bytes = done_bytes
        self.total_bytes = total_bytes
        self.is_check = is_check
        self.file = ""

    def start(self, file: str) -> None:
        self.file = file
        self.advance(0)

    def advance(self, n_bytes: int) -> None:
        self.done_bytes += n_bytes
        self.on_event(DownloadEvent(self.file, self.done_bytes, self.total_bytes, self.is_check))


def _require_files(entry: ModelEntry, names: Iterable[str], files: Container[str]) -> None:
    for name in names:
        if name not in files:
            raise UserError(
                f"{entry.repository} has no {name}",
                "A CodeGen checkpoint holds config.json, tokenizer.json and"
                " model.safetensors or pytorch_model.bin, whole or in parts with an index.",
            )


def _require_room(needed_bytes: int) -> None:
    cache = hub_cache.cache_dir()
    existing = next(path for path in (cache, *cache.parents) if os.path.exists(path))  # noqa: PTH110
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > free_bytes:
        raise UserError(
            f"{cache} has room for {free_bytes / 1e6:,.0f} MB,"
            f" the download needs {needed_bytes / 1e6:,.0f} MB",
            "HF_HOME chooses another directory for downloads.",
        )
