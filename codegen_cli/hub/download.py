"""A model entry -> its checkpoint's directory in the Hugging Face cache, fetched and compared.

A file is hashed as it arrives, and is given its name once the hash is the one that the hub states:
what was there before is compared too. What has arrived of it stays for the next run, whatever ends
this one.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.network import settings as hub_settings
from codegen_cli.hub.network.client_import import import_client
from codegen_cli.hub.network.failures import FileChanged
from codegen_cli.hub.plan import DownloadPlan, PlannedFile, plan_download, require_as_stated
from codegen_cli.hub.stored import cache as hub_cache
from codegen_cli.hub.stored.blob_lock import is_free, locked
from codegen_cli.hub.stored.cache import (
    cached_file,
    hash_of_name,
    remove_file,
    snapshot_dir,
    whole_checkpoint,
)
from codegen_cli.hub.stored.content_hash import HashCheck, check_hash, is_hash, new_digest
from codegen_cli.hub.stored.part import Begun, Part, note_begun, remove_part
from codegen_cli.hub.stored.placement import place, write_ref
from codegen_cli.hub.stored.unfinished import begun_files, remove_foreign_parts
from codegen_cli.machine.disk_room import free_bytes
from codegen_cli.terminal import console
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.hub.network.client import HubLocation

_MOST_STARTS = 3


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
    answer, or a file that did not arrive as the hub has it, of which nothing is kept.
    """
    if not force and (cached := whole_checkpoint(entry)):
        return cached
    return fetch(prepare(entry, force=force), on_event)


def prepare(entry: ModelEntry, *, force: bool = False) -> DownloadPlan:
    """Ask the hub what `fetch` has to do. Arguments and errors as of `download`."""
    if not entry.repository:
        raise UserError(f"{entry.name} is bundled: there is nothing to download")
    hub_settings.require_usable()
    return plan_download(entry, newest=force)


def fetch(plan: DownloadPlan, on_event: OnEvent = lambda event: None) -> Path:
    """Do what a plan says; returns and raises as `download`."""
    entry = plan.entry
    for part, part_bytes in remove_foreign_parts(entry.repository):
        size = console.size(part_bytes)
        console.note(f"removed {part}, {size}: a download that was killed left it")
    for _ in range(_MOST_STARTS):
        try:
            return _Job(plan, import_client(), on_event).run()
        except FileChanged as change:
            console.note(f"{change} on the hub meanwhile: starting over with what it has now")
            plan = plan_download(entry, newest=True)
    raise UserError(
        f"{entry.repository} changes again and again while it is downloaded",
        "Wait a while, or ask its owner.",
    )


class _Job:
    """A download under way: what is wanted, and who is told."""

    def __init__(self, plan: DownloadPlan, client: ModuleType, on_event: OnEvent) -> None:
        self.plan, self.entry, self.client, self.on_event = plan, plan.entry, client, on_event
        self.snapshot = plan.directory
        self.directory = self.snapshot.parent.parent
        self.progress = _Progress(on_event, 0, plan.total_bytes)

    def run(self) -> Path:
        from codegen_cli.hub.network.errors import hub_errors  # with the client

        plan = self.plan
        missing = self._missing()
        _require_room(sum(file.room_bytes for file in missing))
        there_bytes = plan.total_bytes - sum(file.file_bytes for file in missing)
        self.progress = _Progress(self.on_event, there_bytes, plan.total_bytes)
        with hub_errors(self.entry):
            if snapshot_dir(self.entry.repository, self.entry.revision) is None:
                self._write_ref()  # so that no program takes what is begun for left behind
            self._begin(missing)
            while missing:
                for file in missing:
                    self._provide(file)
                missing = self._gone()
            self._write_ref()
            self._remove_older_parts()
        if plan.commit != plan.newest:
            console.warn(
                f"{self.entry.revision} of {self.entry.repository} has moved on since this was "
                f"begun, at {plan.commit[:12]}; for the newest: codegen download --force "
                f"{self.entry.name}"
            )
        return self.snapshot

    def _missing(self) -> list[PlannedFile]:
        """Return the files that are not there as the hub has them; damaged ones give way."""
        there = {file.path: file for file in self.plan.files if file.path}
        damaged = {check.path for check in self._damaged(there)}
        for path in damaged:
            console.warn(f"{path} is damaged: fetching it again")
            remove_file(path)
        return [
            replace(file, path=None)
            for file in self.plan.files
            if not file.path or file.path in damaged
        ]

    def _gone(self) -> list[PlannedFile]:
        """Return the files that somebody has removed while others were fetched (a prune)."""
        gone = [file for file in self.plan.files if not (self.snapshot / file.name).exists()]
        return [replace(file, path=None, kept_bytes=0, held_bytes=0) for file in gone]

    def _damaged(self, there: Mapping[Path, PlannedFile]) -> list[HashCheck]:
        """Return the files that are not as the hub states, or as their blobs' names do if it does
        not. What has no hash at all (another server than the Hugging Face hub) is told of.
        """
        stated = {path: file.hash or hash_of_name(path) for path, file in there.items()}
        for path, need in stated.items():
            if not need:
                _tell_of_no_hash(path.name)
        return _compared(stated, self.on_event)

    def _begin(self, missing: Sequence[PlannedFile]) -> None:
        """Note of each that it is wanted: so all will be of this commit, whatever happens."""
        for file in missing if len(missing) > 1 else ():
            blob = self.directory / "blobs" / file.hash
            if file.hash and not blob.exists() and is_free(blob):
                with locked(blob, lambda: None):
                    note_begun(blob, self._begun(file))

    def _provide(self, file: PlannedFile) -> None:
        """Have the snapshot a file: linked to a blob that is there, else fetched."""
        self.progress.start(file.name)
        location = self._located(file)
        if not file.file_bytes:  # the list of files does not say
            file = replace(file, file_bytes=location.file_bytes or 0)
        blob = self.directory / "blobs" / location.etag
        with locked(blob, self._tell_of_wait):
            if cached_file(self.entry.repository, file.name, self.plan.commit):
                self.progress.advance(file.file_bytes)  # another program has fetched it meanwhile
                return
            is_new = not self._has_sound(blob, file)
            if is_new:
                self._fetch(file, blob, location)
            else:
                self.progress.advance(file.file_bytes)
            links = self.client.makes_links(hub_cache.cache_dir())
            place(blob, self.snapshot, file.name, links=links, is_new=is_new)

    def _located(self, file: PlannedFile) -> "HubLocation":
        from codegen_cli.hub.network.patience import Patience

        patience = Patience(file.name)
        while True:
            try:
                return self._locate(file)
            except Exception as error:
                patience.failed(error)

    def _locate(self, file: PlannedFile, known_etag: str = "") -> "HubLocation":
        """Ask where a file is; raises FileChanged unless it is the one that was begun."""
        location: HubLocation = self.client.locate(self.entry, self.plan.commit, file.name)
        is_same = location.etag == (known_etag or location.etag)
        is_same_size = not file.file_bytes or location.file_bytes in (None, file.file_bytes)
        if location.commit != self.plan.commit or not is_same or not is_same_size:
            raise FileChanged(f"{file.name} has changed")
        return location

    def _has_sound(self, blob: Path, file: PlannedFile) -> bool:
        """Tell whether a blob is there as it should be; if it is damaged, it goes."""
        if not blob.is_file():
            return False
        need = file.hash or (blob.name if is_hash(blob.name) else "")
        if not need or not _compared({blob: need}, self.on_event):
            return True
        console.warn(f"{blob} is damaged: fetching it again")
        blob.unlink()
        return False

    def _fetch(self, file: PlannedFile, blob: Path, location: "HubLocation") -> None:
        from codegen_cli.hub.network.transfer import Transfer

        need = file.hash or (location.etag if is_hash(location.etag) else "")
        if not need:
            _tell_of_no_hash(file.name)
        with Part(blob, self._begun(file), new_digest(need, file.file_bytes)) as part:
            kept = _Progress(self.on_event, 0, file.kept_bytes, is_check=True)
            kept.file = file.name
            part.resume(kept.advance)
            self.progress.advance(part.length)
            if file.content is not None:
                part.append(file.content[part.length :])
            else:
                again = functools.partial(self._locate, file, location.etag)
                Transfer(part, again, self.progress.advance).run(location)
            check = HashCheck(Path(file.name), part.hash(), need)
            if need and not check.is_sound:
                part.discard()
            require_as_stated(self.entry, check)
            part.finish()

    def _begun(self, file: PlannedFile) -> Begun:
        return Begun(file.name, file.file_bytes, self.entry.revision, self.plan.commit)

    def _write_ref(self) -> None:
        write_ref(self.directory, self.entry.revision, self.plan.commit)

    def _remove_older_parts(self) -> None:
        """Remove what was begun of this revision at commits that will not be finished any more."""
        for blob in begun_files(self.entry.repository, self.entry.revision):
            if is_free(blob):
                remove_part(blob)

    def _tell_of_wait(self) -> None:
        console.note(f"another program is downloading {self.entry.repository}: waiting for it")


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


def _tell_of_no_hash(name: str) -> None:
    console.warn(f"{hub_settings.endpoint()} states no hash of {name}: not compared")


def _require_room(needed_bytes: int) -> None:
    cache = hub_cache.cache_dir()
    room = free_bytes(cache)
    if needed_bytes > room:
        raise UserError(
            f"{cache} has room for {room / 1e6:,.0f} MB,"
            f" the download needs {needed_bytes / 1e6:,.0f} MB",
            "HF_HOME chooses another directory for downloads.",
        )
