"""`codegen quantize`: a checkpoint -> a packed file that `codegen complete` runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from codegen_cli.commands import options
from codegen_cli.commands.model_names import model_names
from codegen_cli.terminal import console


def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A model name, a checkpoint directory or its weight file.",
            autocompletion=model_names,
        ),
    ],
    format: Annotated[
        Literal["int8", "int4", "f16"],
        typer.Option(
            "--format", "-f", help="int8: lossless in practice; int4: smallest; f16: unquantized."
        ),
    ] = "int8",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, not among the models."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell each matrix's rounding error.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Pack a checkpoint to int8, int4 or f16.

    The first model among yours becomes the one that runs without -m; not a file elsewhere (-o).

    \b
    codegen quantize 350M-mono
    codegen quantize 2B-mono --format int4
    codegen quantize ./checkpoint --format int4 -o mine.safetensors
    codegen quantize -v 350M-mono 2> errors.txt
    """
    from codegen_cli.models.absence import not_here
    from codegen_cli.models.hub.cache import cached_checkpoint
    from codegen_cli.models.packing import make_default_if_first, pack
    from codegen_cli.models.registry import KnownModel, packed_path, resolve_source

    console.set_quiet(quiet)
    checkpoint = resolve_source(source)
    if isinstance(checkpoint, KnownModel):
        path = cached_checkpoint(checkpoint.entry)
        if path is None:
            raise not_here(checkpoint, is_source=True)
    else:
        path = checkpoint.path
    target = output or packed_path(checkpoint.name, format)
    pack(path, checkpoint.name, format, target, tells_tensors=verbose)
    make_default_if_first(target)
