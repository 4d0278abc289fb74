"""The options that several commands share, each declared once."""

from typing import Annotated

import typer

from codegen_cli.commands.device_names import device_names
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
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        envvar="CODEGEN_THREADS",
        help="On the CPU. Default: one per usable core that the model keeps busy.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        envvar="CODEGEN_DEVICE",
        help="Where to compute: cpu, or by PyTorch on a GPU: auto, cuda, cuda:1, mps, xpu.",
        autocompletion=device_names,
    ),
]
IgnoreMemory = Annotated[
    bool,
    typer.Option(
        "--ignore-memory",
        envvar="CODEGEN_IGNORE_MEMORY",
        help="On the CPU: run a model that needs more memory than there is, from the disk.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", envvar="CODEGEN_QUIET", help="No notes on stderr.")
]
SpecialTokens = Annotated[
    bool,
    typer.Option("--special-tokens", help="Read <|endoftext|> in a text as the end mark."),
]
TextFiles = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Text files in UTF-8; - stands for stdin.")
]
