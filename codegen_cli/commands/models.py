"""`codegen models`: what there is on this machine, checked, chosen, taken in and removed."""

import os
from pathlib import Path
from typing import Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.commands.device_names import device_names
from codegen_cli.commands.help_text import Command, Group
from codegen_cli.commands.model_names import model_names
from codegen_cli.terminal import console, streams, tables

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A model's name, a packed file or a checkpoint directory.",
        autocompletion=model_names,
    ),
]

app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def models(context: typer.Context) -> None:
    """List, check, choose, import and remove models.

    Without a command it lists them.

    \b
    codegen models
    codegen models default 350M-mono
    codegen models verify
    codegen models prune --dry-run
    """
    if context.invoked_subcommand is None:
        list_models()


@app.command("list", cls=Command)
def list_models(as_json: AsJson = False, quiet: options.Quiet = False) -> None:
    """List models: what is here, what would fit, what lies on disk.

    A format needs so much memory to run: the file, the cache for a whole context, the program.
    "fits" names the formats for which this machine has as much available now. * marks the default.
    A name without a format, as in -m 350M-mono, means int4 if that is packed, else int8, else f16.
    What lies on disk is told by kind and place: a file counts once, however many names it has. A
    note says how much of it `codegen models prune` would free.

    \b
    codegen models list
    codegen models list --json | jq -r '.models[] | select(.checkpoint) | .name'
    codegen models list --json | jq .disk.bytes
    """
    from codegen_cli.machine.memory import available_bytes
    from codegen_cli.machine.places import find_models_dir
    from codegen_cli.models.disk_use import disk_use
    from codegen_cli.models.inventory import all_models
    from codegen_cli.models.leftovers import leftovers
    from codegen_cli.models.local_models import nameless_files
    from codegen_cli.models.model_default import default_that_runs
    from codegen_cli.reports import model_views

    console.set_quiet(quiet)
    available, default, states = available_bytes(), default_that_runs(), all_models()
    uses, others = disk_use(), leftovers()
    if as_json:
        streams.write_json(
            {
                "models_dir": None if (place := find_models_dir()) is None else str(place),
                "memory_available_bytes": available,
                "default": default,
                "models": [model_views.as_object(state, default, available) for state in states],
                "leftovers": [model_views.leftover_object(other) for other in others],
                "disk": model_views.disk_object(uses, others),
            }
        )
        return
    rows = [model_views.list_row(state, default, available) for state in states]
    tables.table(rows, model_views.LIST_HEADERS)
    tables.prose("")
    tables.table(model_views.disk_rows(uses), model_views.DISK_HEADERS, wraps_last=True)
    if available is not None:
        console.note(f"{console.size(available)} of memory are available")
    console.note(model_views.FORMAT_RULE)
    if others:
        freed = model_views.freed_size(others)
        console.note(f"codegen models prune would free {freed} (--dry-run lists what)")
    for line in model_views.nameless_lines(nameless_files()):
        console.note(line)


@app.command(cls=Command)
def show(name: Name, as_json: AsJson = False, quiet: options.Quiet = False) -> None:
    """Show a model: dimensions, licence, files, memory.

    \b
    codegen models show 350M-mono
    codegen models show ./mine.safetensors
    codegen models show 16B-mono --json | jq '.formats[] | {format, memory_bytes}'
    """
    from codegen_cli.machine.memory import available_bytes
    from codegen_cli.models.inventory import describe
    from codegen_cli.models.model_default import default_that_runs
    from codegen_cli.reports import model_views

    console.set_quiet(quiet)
    available, default = available_bytes(), default_that_runs()
    state = describe(name)
    if as_json:
        streams.write_json(model_views.as_object(state, default, available))
        return
    tables.facts(model_views.show_rows(state, default, available))


@app.command(cls=Command)
def path(name: Name, as_json: AsJson = False) -> None:
    """Print where a model lies: its packed file, else its checkpoint.

    It prints the bytes of the path. JSON has \\xNN for a byte that is not UTF-8.

    \b
    codegen models path 350M-mono:int4
    ls -l "$(codegen models path 350M-mono)"
    """
    from codegen_cli.models.absence import not_here
    from codegen_cli.models.registry import CheckpointModel, KnownModel, resolve

    model = resolve(name)
    if isinstance(model, KnownModel):
        place = model.packed
        if place is None and model.format is None:
            from codegen_cli.hub.stored.cache import cached_checkpoint

            place = cached_checkpoint(model.entry)
        if place is None:
            raise not_here(model)
        kind = "packed" if model.packed else "checkpoint"
    else:
        place, kind = model.path, "checkpoint" if isinstance(model, CheckpointModel) else "packed"
    place = place.absolute()
    if as_json:
        streams.write_json({"name": model.name, "kind": kind, "path": str(place)})
    else:
        streams.write_line(os.fsencode(place))  # bytes: a path need not be valid text


@app.command(cls=Command)
def default(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Make this the default; a name, or the path of a model.",
            autocompletion=model_names,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="Make this the device that is used without --device.",
            autocompletion=device_names,
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Show or set what runs without -m and --device.

    Without a choice the model is the first that was packed or imported, and once that has gone the
    bundled one; the device is the CPU.

    \b
    codegen models default
    codegen models default 350M-mono
    codegen models default 2B-mono:int4 --device cuda
    codegen models default --device cpu
    """
    from codegen_cli.contract.device_name import CPU
    from codegen_cli.hub.entries import BUNDLED
    from codegen_cli.models import settings
    from codegen_cli.models.model_default import default_for, default_that_runs
    from codegen_cli.session.device_choice import judge_device

    console.set_quiet(quiet)
    if device is not None:
        judge_device(device)  # before anything is changed
    if name is None:
        chosen = default_that_runs()
    else:
        chosen = default_for(name)
        settings.set_default_model(chosen)
        console.tip(f"{console.printable(chosen)} is now the default model")
    if device is not None:
        settings.set_default_device(device)
        console.tip(f"{device} is now the default device")
    if name is None and device is None and (other := settings.default_device()):
        console.tip(f"it runs on the default device, {console.printable(other)}")
    if chosen is None and device is None:
        console.tip(f"no default was chosen: {BUNDLED}, the bundled model, answers")
    if as_json:
        defaults = {"default": chosen or BUNDLED, "is_chosen": chosen is not None}
        streams.write_json(defaults | {"device": settings.default_device() or CPU})
    elif name is None and device is None:
        streams.write_line(os.fsencode(chosen or BUNDLED))


@app.command("rm", cls=Command)
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME[:FORMAT]", autocompletion=model_names)],
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Its download in the Hugging Face cache instead.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove the packed files of a model, or its checkpoint.

    Files outside the models directory stay (`codegen models prune` removes packed copies in the
    cache). --checkpoint removes what `codegen download` fetched, for all programs that use the
    Hugging Face cache; what other revisions need stays. A run that uses the model goes on.

    \b
    codegen models rm 350M-mono:int8
    codegen models rm 350M-mono --yes
    codegen models rm 350M-mono --checkpoint
    """
    from codegen_cli.commands.model_removal import remove_checkpoint, remove_packed
    from codegen_cli.models.model_default import forget_missing_default

    console.set_quiet(quiet)
    files, removed = (remove_checkpoint if checkpoint else remove_packed)(name, yes)
    forgotten = forget_missing_default(files)
    if forgotten:
        console.warn(f"{console.printable(forgotten)} was the default model; there is none now")
    if as_json:
        streams.write_json({"removed": removed, "default_was_reset": forgotten is not None})


@app.command(cls=Command)
def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would go, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove files that nobody needs to keep.

    These are the parts that killed runs and downloads left, and what is made again when needed: the
    packed copies of checkpoint directories that were run as they are (-m ./checkpoint), and kernels
    that were compiled for other releases or CPUs, or by another Triton. Models stay, and so does
    what another process is writing now. A download whose part is removed begins anew.

    \b
    codegen models prune --dry-run
    codegen models prune
    codegen models prune --json | jq .bytes
    """
    from codegen_cli.models.leftovers import leftovers, remove_leftover
    from codegen_cli.reports import model_views

    console.set_quiet(quiet)
    found = leftovers()
    if dry_run and found and not as_json:
        tables.table(
            model_views.leftover_rows(found), model_views.LEFTOVER_HEADERS, wraps_last=True
        )
    for each in [] if dry_run else list(found):
        if not remove_leftover(each):
            found.remove(each)
            continue
        place = console.printable(str(each.path))
        console.note(f"removed {place}, {console.size(each.file_bytes)}")
    console.note(model_views.prune_line(found, dry_run))
    if as_json:
        streams.write_json(model_views.prune_object(found, dry_run))


@app.command(cls=Command)
def verify(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|FILE]...",
            help="Default: all packed models.",
            autocompletion=model_names,
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check every tensor of packed files against its hash.

    A name without a format means its checkpoint in the Hugging Face cache too: each file there is
    compared with the hash that the hub states, which names it. Exits with 1 if anything is damaged,
    and names it.

    \b
    codegen models verify
    codegen models verify 350M-mono:int4
    codegen models verify ./mine.safetensors --json
    """
    from codegen_cli.models.verification import files_to_verify, verify_path

    console.set_quiet(quiet)
    results = []
    for path in files_to_verify(models or []):
        result = verify_path(path)
        results.append(result)
        if not as_json:
            for line in result.lines():
                tables.prose(console.printable(line))
        if result.hint:
            console.note(result.hint)
    is_sound = all(result.is_sound for result in results)
    if as_json:
        streams.write_json(
            {"is_sound": is_sound, "files": [result.as_object() for result in results]}
        )
    if not is_sound:
        raise typer.Exit(1)


@app.command("import", cls=Command)
def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A packed file.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Call the model so.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a model of that name and format.")
    ] = False,
    as_json: AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Take a packed file in among the models, once it is found sound.

    Every hash is checked first. On the same disk the file is linked, not copied.

    \b
    codegen models import ./mine.safetensors
    codegen models import /mnt/usb/2B.int4.safetensors --name 2B-mono
    """
    from codegen_cli.models.local_models import import_file, import_name
    from codegen_cli.models.packing import make_default_if_first
    from codegen_cli.models.verification import require_sound
    from quantize.packed.packed_file import read_packed_file

    console.set_quiet(quiet)
    packed = read_packed_file(file)
    chosen = import_name(name, packed.name, file)
    target = import_file(file, chosen, packed.format, judge=require_sound, replace=force)
    console.tip(f"imported; run it with: codegen complete -m {chosen}:{packed.format}")
    make_default_if_first(target)
    if as_json:
        streams.write_json({"name": chosen, "format": packed.format, "path": str(target)})
    else:
        streams.write_line(os.fsencode(target))
