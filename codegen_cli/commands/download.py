"""`codegen download MODEL`: a name or hub repository -> a checkpoint in the Hugging Face cache."""

import os
from typing import Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.commands.model_names import model_names
from codegen_cli.terminal import console, drawing, streams


def download(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name such as 350M-mono, or owner/name on the hub.",
            autocompletion=model_names,
        ),
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Ask the hub though all is there; fetch again what is not as it states."
        ),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch a checkpoint from the hub; print its place.

    Names: {350M,2B,6B,16B}-{nl,multi,mono}. Only the config, the tokenizer and the weights are
    fetched, into the cache that all programs of the hub share (HF_HOME); a checkpoint that is
    there already is found. Each file is compared with the hash that the hub states of it; one that
    differs is removed, and the command fails.

    \b
    codegen download 350M-mono
    codegen download --force 350M-mono
    codegen download salesforce/codegen-2b-multi
    codegen quantize "$(codegen download owner/name)" --format int4
    """
    from codegen_cli.hub.cache import whole_checkpoint
    from codegen_cli.hub.download import download as fetch
    from codegen_cli.models.registry import KnownModel, resolve
    from quantize.files.errors import UserError

    console.set_quiet(quiet)
    found = resolve(model)
    if not isinstance(found, KnownModel):
        raise UserError(f"{model} is on this machine: there is nothing to download")
    entry = found.entry
    directory = whole_checkpoint(entry)
    if directory is None or force:
        size = f", about {entry.size.download_bytes / 1e6:,.0f} MB" if entry.size else ""
        place = "the hub" if entry.name == entry.repository else entry.repository
        if directory is not None:
            console.note(f"comparing {entry.name} with {place}")
        else:
            console.note(f"fetching {entry.name} from {place}{size}")
        with drawing.progress(entry.name, "bytes") as advance:
            directory = fetch(
                entry, lambda event: advance(event.done_bytes, event.total_bytes), force=force
            )
    else:
        console.note(f"{entry.name} is in the cache")
    streams.write_line(os.fsencode(directory))
    console.tip(f"next: codegen quantize {entry.name} --format int4")
