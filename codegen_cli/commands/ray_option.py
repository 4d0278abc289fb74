"""`--ray [ADDRESS]`: an option whose value may be left out, which typer has none of."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from codegen_cli.cluster.address import FOUND, is_address
from codegen_cli.commands.help_text import Command

_NAME = "--ray"

Ray = Annotated[
    str | None,
    typer.Option(
        _NAME,
        metavar="[ADDRESS]",
        help="Answer by a Ray cluster: HOST:PORT, auto (the one this machine is in) or local (one "
        "of its own, on this machine). Without ADDRESS: auto, else local.",
    ),
]
RayHub = Annotated[
    bool,
    typer.Option(
        "--ray-hub",
        help="A node that lacks the model gets it from the hub, and packs it; else from here.",
    ),
]


class RayCommand(Command):
    """A command with that option: what follows is its value only if it can be nothing else."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments."""
        return super().parse_args(ctx, list(_with_value(args)))


def _with_value(arguments: Sequence[str]) -> Iterator[str]:
    """Yield arguments in which the option and its value, which may be none, are one word."""
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            yield argument
            yield from waiting
        elif argument != _NAME:
            yield argument
        else:
            following = next(waiting, None)
            is_value = following is not None and is_address(following)
            yield f"{_NAME}={following if is_value else FOUND}"
            if following is not None and not is_value:
                yield from _with_value([following, *waiting])
