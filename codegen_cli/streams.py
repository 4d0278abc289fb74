"""A command's result -> stdout, in UTF-8 whatever the locale, whole or with an error."""

import os
import sys

from quantize.errors import UserError


def write_result(content: str | bytes) -> None:
    """Write a part of a command's result to stdout, at once, in UTF-8 whatever the locale.

    Raises UserError where stdout refuses, as on a full disk; BrokenPipeError once nobody reads.
    """
    try:
        sys.stdout.buffer.write(content.encode() if isinstance(content, str) else content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise refused_by_stdout(error) from error


def refused_by_stdout(error: OSError) -> UserError:
    """Return what to tell of an error in writing to stdout, which leads nowhere from now on.

    What is left in its buffer must not fail once more when Python ends.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return UserError(f"cannot write to stdout: {error.strerror}")


def write_line(line: str | bytes) -> None:
    """Write a line of a command's result; errors as write_result's."""
    write_result(line + b"\n" if isinstance(line, bytes) else f"{line}\n")
