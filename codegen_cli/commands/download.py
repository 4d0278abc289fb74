"""`codegen download MODEL`: a name or hub repository -> a checkpoint in the Hugging Face cache."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.commands.model_names import model_names
from codegen_cli.terminal import console, drawing, streams, tables
from quantize.description.formats import MatrixFormat

if TYPE_CHECKING:
    from codegen_cli.hub.download import DownloadEvent, OnEvent
    from codegen_cli.hub.entries import ModelEntry
    from codegen_cli.hub.plan import DownloadPlan
    from codegen_cli.models.download_room import DownloadRoom

_ASKS_FROM_BYTES = 5e9


def download(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A name such as 350M-mono, or owner/name on the hub; without one: what there is.",
            autocompletion=model_names,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision", metavar="REV", help="A branch, tag, refs/pr/N or commit: MODEL@REV."
        ),
    ] = None,
    format: Annotated[
        MatrixFormat | None,
        typer.Option("--format", "-f", help="Pack it straight after; the checkpoint then goes."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="With --format: keep the checkpoint, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched, and where to.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Ask the hub though all is there; fetch again what is not as it states."
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, whatever its size.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch a checkpoint from the hub; print its place.

    Names: {350M,2B,6B,16B}-{nl,multi,mono}. Only the config, the tokenizer and the weights are
    fetched, into the cache that all programs of the hub share (HF_HOME); a checkpoint that is
    there already is found. Each file is compared with the hash that the hub states of it.

    Whatever ends it (Ctrl-C, the network, a reboot), the same command goes on where it was.
    With --format the packed file's place is printed. On a terminal it asks before more than 5 GB.

    \b
    codegen download
    codegen download 350M-mono
    codegen download 6B-mono --format int4
    codegen download 16B-mono --format int4 --dry-run
    codegen download salesforce/codegen-2b-multi --revision refs/pr/1
    codegen quantize "$(codegen download owner/name)" --format int4
    """
    from codegen_cli.models.registry import resolve_download

    console.set_quiet(quiet)
    if model is None:
        _list()
        return
    found = resolve_download(model, revision)
    entry, wanted = found.entry, format or found.format
    if wanted and not force and (packed := _packed(entry, wanted)):
        console.note(f"{entry.name} is packed as {wanted}")
        streams.write_line(os.fsencode(packed))
        return
    plan, room = _prepared(entry, wanted, force=force)
    if dry_run:
        _show(entry, plan, room)
        room.require()
        return
    room.require()
    directory = _checkpoint(entry, plan, room, yes=yes, is_to_be_packed=bool(wanted) and not keep)
    if wanted is None:
        streams.write_line(os.fsencode(directory))
        console.tip(f"next: codegen quantize {entry.name} --format int4")
        return
    streams.write_line(os.fsencode(_pack(entry, wanted, directory, plan, keep=keep)))


def _list() -> None:
    """Show the models that can be downloaded."""
    from codegen_cli.hub.stored.unfinished import begun_bytes
    from codegen_cli.models.inventory import all_models
    from codegen_cli.reports import download_report

    states = [state for state in all_models() if state.entry and state.entry.repository]
    rows = []
    for state in states:
        entry = state.entry
        begun = begun_bytes(entry.repository, entry.revision) if entry else 0
        rows.append(download_report.list_row(state, begun))
    tables.table(rows, download_report.LIST_HEADERS)
    console.tip("fetch and pack one: codegen download 350M-mono --format int4")


def _packed(entry: "ModelEntry", format: str) -> Path | None:
    from codegen_cli.models.registry import find_packed

    return find_packed(entry.name, format)


def _prepared(
    entry: "ModelEntry", format: str | None, *, force: bool
) -> "tuple[DownloadPlan | None, DownloadRoom]":
    """Return what is to be done, None where the checkpoint is there, and the room that takes."""
    from codegen_cli.hub.download import prepare
    from codegen_cli.hub.stored.cache import whole_checkpoint
    from codegen_cli.models.download_room import room_for, size_if_packed
    from codegen_cli.models.registry import packed_path

    is_there = not force and whole_checkpoint(entry) is not None
    plan = None if is_there else prepare(entry, force=force)
    if format is None or plan is None:  # packing judges the room for itself
        return plan, room_for(plan, None, 0)
    return plan, room_for(plan, packed_path(entry.name, format), size_if_packed(plan, format))


def _show(entry: "ModelEntry", plan: "DownloadPlan | None", room: "DownloadRoom") -> None:
    from codegen_cli.reports import download_report

    if plan is None:
        console.note(f"{entry.name} is in the cache: there is nothing to fetch")
    else:
        tables.facts(download_report.facts(plan, room))


def _checkpoint(
    entry: "ModelEntry",
    plan: "DownloadPlan | None",
    room: "DownloadRoom",
    *,
    yes: bool,
    is_to_be_packed: bool,
) -> Path:
    """Return the checkpoint's directory, fetched if it is not there."""
    from codegen_cli.hub.download import fetch
    from codegen_cli.hub.removal import find_checkpoint
    from codegen_cli.models.download_room import reserved
    from codegen_cli.models.passing_checkpoints import mark, unmark
    from codegen_cli.reports import download_report

    if plan is None:
        directory = find_checkpoint(entry)
        console.note(f"{entry.name} is in the cache")
        if not is_to_be_packed:
            unmark(directory)
        return directory
    if plan.fetch_bytes:
        console.note(download_report.sentence(plan, room))
    else:
        place = "the hub" if entry.name == entry.repository else entry.repository
        console.note(f"comparing {entry.name} with {place}")
    _ask(plan, yes)
    if is_to_be_packed:
        mark(entry, plan.directory, [file.name for file in plan.files if not file.path])
    else:
        unmark(plan.directory)
    with _telling_what_is_kept(plan), reserved(room), _bars(entry.name) as on_event:
        return fetch(plan, on_event)


def _ask(plan: "DownloadPlan", yes: bool) -> None:
    if yes or plan.fetch_bytes <= _ASKS_FROM_BYTES or not console.is_interactive():
        return
    if not console.confirm(f"Fetch {console.size(plan.fetch_bytes)}?"):
        console.note("nothing was fetched")
        raise typer.Exit(1)


@contextlib.contextmanager
def _bars(name: str) -> "Iterator[OnEvent]":
    """Yield what a download tells its events: one bar for what is fetched, one for what is read."""
    bars: dict[bool, drawing.Advance] = {}
    with contextlib.ExitStack() as shown:

        def on_event(event: "DownloadEvent") -> None:
            if event.is_check not in bars:
                shown.close()
                bars.clear()
                label = f"checking {name}" if event.is_check else name
                bars[event.is_check] = shown.enter_context(
                    drawing.progress(label, "bytes", is_long=True)
                )
            bars[event.is_check](event.done_bytes, event.total_bytes)

        yield on_event


@contextlib.contextmanager
def _telling_what_is_kept(plan: "DownloadPlan") -> Iterator[None]:
    """However it ends before it is done, tell how much is there, and how to go on."""
    from codegen_cli.hub.stored.unfinished import begun_bytes

    try:
        yield
    except BaseException:
        done = [file for file in plan.files if (plan.directory / file.name).exists()]
        kept = begun_bytes(plan.entry.repository, plan.entry.revision)
        if kept := kept + sum(file.file_bytes for file in done):
            console.note(
                f"{console.size(kept)} of {console.size(plan.total_bytes)} are kept: "
                "the same command goes on from there"
            )
        raise


def _pack(
    entry: "ModelEntry", format: str, directory: Path, plan: "DownloadPlan | None", *, keep: bool
) -> Path:
    """Pack a checkpoint; remove what was fetched of it for that. Return the packed file."""
    from codegen_cli.models.packing import make_default_if_first, pack
    from codegen_cli.models.passing_checkpoints import remove_marked
    from codegen_cli.models.registry import packed_path
    from quantize.files.errors import UserError

    target = packed_path(entry.name, format)
    try:
        pack(directory, entry.name, format, target)
    except UserError:
        # Removed file by file: where one is gone, the others go too.
        files = plan.files if plan else ()
        is_whole = directory.exists() and all((directory / file.name).exists() for file in files)
        if is_whole or not target.exists():
            raise
        console.note(f"another process has packed {target}, and removed the checkpoint")
    make_default_if_first(target)
    if not keep and remove_marked(entry, directory):
        console.note(f"removed the checkpoint; --keep would have kept it ({directory})")
    return target
