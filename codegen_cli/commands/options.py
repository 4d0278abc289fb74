"""The options that several commands share, each declared once."""

from typing import Annotated

import typer

from codegen_cli.commands.model_names import model_names

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="CODEGEN_MODEL",
        help="A name (350M-mono, 2B-multi:int4), a packed file or a checkpoint directory.",
        autocompletion=model_names,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, envvar="CODEGEN_THREADS", help="Default: one per core."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", envvar="CODEGEN_QUIET", help="No notes on stderr.")
]
TextFiles = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Text files in UTF-8; - stands for stdin.")
]
