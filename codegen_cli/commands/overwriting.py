"""A command's input that its output would replace -> wrong usage, before anything is done.

Where a shell's `>` has emptied the file already, the message says so: codegen never saw its text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from codegen_cli.commands.prompt_input import STDIN
from codegen_cli.terminal import console, redirection

_WRONG_USAGE = 2


def refuse_overwritten_prompt(file: Path | None, *, reads_stdin: bool) -> None:
    """End the run if stdout replaces what is completed; to append to it is how to complete it."""
    if redirection.appends_to_stdout():
        return
    if file is not None and redirection.is_stdout(file):
        _refuse(f"stdout is {file}, the file to complete", f"--file {file} >> {file}")
    if reads_stdin and redirection.is_stdout(None):
        _refuse("stdout is the file that stdin reads", "< FILE >> FILE")


def refuse_overwritten_texts(files: Sequence[str], output: Path | None = None) -> None:
    """End the run if a text is in the file that the results go to, whether instead or after it."""
    for file in files:
        source = None if file == STDIN else Path(file)
        name = "stdin" if source is None else file
        if output is None and redirection.is_stdout(source):
            _end(f"stdout is a file to read: {name}{_state()}", "Write to another file.")
        if output is not None and redirection.are_same(source, output):
            _end(f"{output} is a file to read, too: {name}", "Choose another file with -o.")


def _refuse(what: str, remedy: str) -> NoReturn:
    begin = "Get its text back, then append" if redirection.is_stdout_empty() else "Append"
    _end(f"{what}{_state()}", f"{begin} to it: codegen complete {remedy}")


def _state() -> str:
    if not redirection.is_stdout_empty():
        return ""
    return "; the shell's > emptied it before codegen began"


def _end(message: str, hint: str) -> NoReturn:
    console.error(message, hint)
    raise typer.Exit(_WRONG_USAGE)
