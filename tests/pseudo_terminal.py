"""A command on a pseudo-terminal of a given size -> all that it shows there, and its exit code."""

import os
import re
import struct
import sys
import unicodedata
from pathlib import Path

ESCAPES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


def run_on_terminal(
    *arguments: str,
    columns: int = 80,
    rows: int = 50,
    stdout: Path | None = None,
    typed: bytes = b"",
    **environment: str,
) -> tuple[str, int]:
    """Run python with arguments; stdout, if given, is a file instead of the terminal.

    What is typed waits there from the start.
    """
    import fcntl
    import pty
    import termios

    process_id, terminal = pty.fork()
    if process_id == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if stdout is not None:
            os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        os.environ.update({"TERM": "xterm-256color"} | environment)
        # Not execv: readline, which pytest imports, sets COLUMNS behind Python's back.
        os.execve(sys.executable, [sys.executable, *arguments], os.environ)
    shown = b""
    os.write(terminal, typed)
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # Linux: the other side is closed
        pass
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])
    return shown.decode().replace("\r\n", "\n"), code


def codegen_on_terminal(*arguments: str, **options: object) -> tuple[str, int]:
    """Run `codegen ARGUMENTS...`; options as of run_on_terminal."""
    return run_on_terminal("-m", "codegen_cli", *arguments, **options)  # type: ignore[arg-type]


def left(shown: str, rows: int = 50) -> list[str]:
    """What stands on a terminal of so many rows in the end, and what was scrolled off it before."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", shown):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row = max(row - 1, len(lines) - rows, 0)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] not in "\r\x1b":
            lines[row] = part  # each is drawn from the left, once
    return [line for line in lines if line]


def plain(shown: str) -> str:
    """What was shown without escape codes, each state of a progress bar on a line of its own."""
    return ESCAPES.sub("", shown.replace("\r", "\n"))


def too_wide(text: str, columns: int) -> list[str]:
    """The lines of a text that a terminal would break inside a word.

    A long last word, such as a path or what a shell has in quotes, is meant to be broken there.
    """
    rests = ((line, re.sub(r"('.*'|\S{20,})$", "", line)) for line in text.splitlines())
    return [line for line, rest in rests if cells(line) > columns and cells(rest) == cells(line)]


def cells(line: str) -> int:
    """How many cells of a terminal a line takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in line)
    return len(line) + wide - sum(map(bool, map(unicodedata.combining, line)))
