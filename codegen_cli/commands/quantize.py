"""`codegen quantize`: a checkpoint -> a packed file that `codegen complete` runs."""

from pathlib import Path
from typing import Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.commands.model_names import model_names
from codegen_cli.terminal import console
from quantize.description.formats import DEFAULT_FORMAT, MATRIX_FORMATS, MatrixFormat

_MERITS = "; ".join(f"{name}: {stored.merit}" for name, stored in MATRIX_FORMATS.items())


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
        MatrixFormat,
        typer.Option("--format", "-f", help=f"{_MERITS}."),
    ] = DEFAULT_FORMAT,
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
    from codegen_cli.hub.stored.cache import cached_checkpoint
    from codegen_cli.models.absence import not_here
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
