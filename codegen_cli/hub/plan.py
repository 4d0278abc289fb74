"""A model entry and what the hub states -> what its download takes: files, bytes, what is there.

The commit is settled here. What was begun at one commit is finished at that one, though the branch
has moved since: else a download of hours would start over for each change of a README.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_cli.hub.checkpoint_files import (
    INDEX_SUFFIX,
    LARGEST_INDEX_BYTES,
    WEIGHTS,
    companions,
    first_weights,
    shards,
)
from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.network.client_import import import_client
from codegen_cli.hub.stored.cache import cached_file, repository_dir
from codegen_cli.hub.stored.content_hash import HashCheck, check_hash, new_digest
from codegen_cli.hub.stored.part import part_path
from codegen_cli.hub.stored.unfinished import begun_files
from codegen_cli.machine.disk_bytes import allocated_bytes
from codegen_cli.terminal import console
from quantize.files.errors import UserError
from quantize.files.input_file import read_input

if TYPE_CHECKING:
    from codegen_cli.hub.network.client import HubRepository


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a checkpoint, as the hub states it.

    hash        of its content, "" if the hub does not say
    path        where it is in the cache, None if it is not
    kept_bytes  of its part
    held_bytes  that the part takes on the disk: more where a kill left room that it had reserved
    content     all of it, where it had to be read for this plan
    """

    name: str
    file_bytes: int
    hash: str
    path: Path | None
    kept_bytes: int = 0
    held_bytes: int = 0
    content: bytes | None = field(default=None, repr=False)

    @property
    def fetch_bytes(self) -> int:
        """What is still to be fetched."""
        return 0 if self.path else max(self.file_bytes - self.kept_bytes, 0)

    @property
    def room_bytes(self) -> int:
        """What that takes on the disk, more than it has taken already."""
        return 0 if self.path else max(self.file_bytes - self.held_bytes, 0)


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """A checkpoint at one commit of its repository.

    newest  the commit that the revision is at now
    """

    entry: ModelEntry
    commit: str
    newest: str
    files: tuple[PlannedFile, ...]

    @property
    def directory(self) -> Path:
        """Where the checkpoint will be. Raises UserError for what can be no repository."""
        repository = repository_dir(self.entry.repository)
        if repository is None:
            raise UserError(f"{self.entry.repository} cannot be a repository")
        return repository / "snapshots" / self.commit

    @property
    def total_bytes(self) -> int:
        """Of the whole checkpoint."""
        return sum(file.file_bytes for file in self.files)

    @property
    def kept_bytes(self) -> int:
        """What parts have of it."""
        return sum(file.kept_bytes for file in self.files if not file.path)

    @property
    def fetch_bytes(self) -> int:
        """What is still to be fetched."""
        return sum(file.fetch_bytes for file in self.files)

    @property
    def room_bytes(self) -> int:
        """What that takes on the disk, more than it has taken already."""
        return sum(file.room_bytes for file in self.files)


def plan_download(entry: ModelEntry, *, newest: bool = False) -> DownloadPlan:
    """Ask the hub what a checkpoint consists of: config, tokenizer and one kind of weights.

    newest  do not care for what was begun at another commit

    Raises UserError: no access, no network, no such repository, or no checkpoint in it.
    """
    client = import_client()
    repository = client.read_repository(entry)
    newest_commit = repository.commit
    if not newest:
        repository = _begun_repository(entry, repository)
    return DownloadPlan(
        entry=entry,
        commit=repository.commit,
        newest=newest_commit,
        files=tuple(_planned_files(entry, repository)),
    )


def _begun_repository(entry: ModelEntry, newest: "HubRepository") -> "HubRepository":
    """Return the repository at the commit at which its download was begun, else as it is now."""
    commits = {begun.commit for begun in begun_files(entry.repository, entry.revision).values()}
    if not commits or newest.commit in commits:
        return newest
    found: HubRepository | None = import_client().find_commit(entry, min(commits))
    if found is None:
        console.note(f"{entry.repository} has no {min(commits)[:12]} any more, as it was begun")
    return found or newest


def _planned_files(entry: ModelEntry, repository: "HubRepository") -> Iterator[PlannedFile]:
    files = repository.files
    names = [*companions(files), first_weights(files) or WEIGHTS[0]]
    _require(entry, names, files)
    *others, weights = (_planned(entry, repository, name) for name in names)
    yield from others
    if not weights.name.endswith(INDEX_SUFFIX):
        yield weights
        return
    index = _read_index(entry, repository, weights)
    parts = shards(index, f"{entry.repository}: {weights.name}")
    _require(entry, parts, files)
    yield replace(weights, content=index)
    for name in parts:
        yield _planned(entry, repository, name)


def _read_index(entry: ModelEntry, repository: "HubRepository", file: PlannedFile) -> bytes:
    """Return the content of an index: from the cache if it is sound there, else from the hub."""
    if file.path and file.hash and check_hash(file.path, file.hash).is_sound:
        return read_input(file.path, LARGEST_INDEX_BYTES)
    content: bytes = import_client().read_file(
        entry, repository.commit, file.name, LARGEST_INDEX_BYTES
    )
    digest = new_digest(file.hash, len(content))
    digest.update(content)
    require_as_stated(entry, HashCheck(Path(file.name), digest.hexdigest(), file.hash))
    return content


def _require(entry: ModelEntry, names: Iterable[str], files: Container[str]) -> None:
    for name in names:
        if name not in files:
            raise UserError(
                f"{entry.repository} has no {name}",
                "A CodeGen checkpoint holds config.json, tokenizer.json and"
                " model.safetensors or pytorch_model.bin, whole or in parts with an index.",
            )


def _planned(entry: ModelEntry, repository: "HubRepository", name: str) -> PlannedFile:
    stated = repository.files[name]
    path = cached_file(entry.repository, name, repository.commit)
    file = PlannedFile(name, stated.file_bytes, stated.hash, path)
    directory = repository_dir(entry.repository)
    if not stated.hash or directory is None:
        return file
    try:
        status = part_path(directory / "blobs" / stated.hash).stat()
    except OSError:
        return file
    return replace(file, kept_bytes=status.st_size, held_bytes=allocated_bytes(status))


def require_as_stated(entry: ModelEntry, check: HashCheck) -> None:
    """Raise a UserError for a file that arrived with another hash than the hub states."""
    if check.need and not check.is_sound:
        raise UserError(
            f"{entry.repository}: {check.path.name} arrived damaged: {check.difference()}",
            f"It was removed, what is sound stays. Run again: codegen download {entry.name}",
        )
