"""`codegen --install-completion`: what typer writes for a shell lies in the home directory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantize.files.errors import UserError

_INSTALL = "--install-completion"
_HINT = (
    "codegen --show-completion bash (or zsh, fish) prints the script: let the shell read it from a"
    " file of yours."
)


@contextmanager
def blaming_home() -> Iterator[None]:
    """Turn a home directory in which nothing can be installed into a UserError."""
    if _INSTALL not in sys.argv:
        yield
        return
    _require_home()
    try:
        yield
    except OSError as error:
        if error.filename is None:  # it is stdout's
            raise
        raise UserError(
            f"cannot install shell completion: {error.filename}: {error.strerror}", _HINT
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            "cannot install shell completion: the shell's start-up file is not UTF-8 text", _HINT
        ) from error


def _require_home() -> None:
    try:
        is_there = Path.home().is_absolute() and os.environ.get("HOME") != ""
    except RuntimeError:
        is_there = False
    if not is_there:
        raise UserError(
            "cannot install shell completion: this user has no home directory (HOME)", _HINT
        )
