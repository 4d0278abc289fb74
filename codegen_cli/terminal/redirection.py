"""Where the standard streams lead: to one place, into an editor's text, over a command's input."""

import os
import stat
import sys
from pathlib import Path


def lead_together() -> bool:
    """Tell whether stdout and stderr lead to one place: the same terminal, pipe or file."""
    out, err = _status(1), _status(2)
    return out is not None and err is not None and os.path.samestat(out, err)


def is_filter() -> bool:
    """Tell whether stderr may become part of the text that another program takes from stdout.

    An editor that sends text through a command gives it pipes or a temporary file for both streams.
    A terminal is no editor, and neither is a file for stderr alone, which is a log.
    """
    if os.isatty(1) or os.isatty(2):
        return False
    err = _status(2)
    is_log = err is not None and stat.S_ISREG(err.st_mode) and not lead_together()
    return not is_log


def is_stdout(file: Path | None) -> bool:
    """Tell whether stdout writes to a regular file that is to be read; None: stdin."""
    return _is_one_file(_status(1), _source_status(file))


def are_same(file: Path | None, other: Path) -> bool:
    """Tell whether two names mean one regular file, links followed; None: stdin."""
    return _is_one_file(_source_status(file), _status(other))


def appends_to_stdout() -> bool:
    """Tell whether what is written to stdout's file is added to its end, as `>>` has it."""
    if sys.platform == "win32":  # cannot tell; but `>` has emptied the file
        return not is_stdout_empty()
    import fcntl

    return bool(fcntl.fcntl(1, fcntl.F_GETFL) & os.O_APPEND)


def is_stdout_empty() -> bool:
    """Tell whether stdout's file holds nothing, as `>` leaves it."""
    out = _status(1)
    return out is not None and out.st_size == 0


def _source_status(file: Path | None) -> os.stat_result | None:
    return _status(0 if file is None else file)


def _status(file: Path | int) -> os.stat_result | None:
    """Return what the file system tells of a file, None where it tells nothing."""
    try:
        return os.fstat(file) if isinstance(file, int) else file.stat()
    except (OSError, ValueError):  # missing, closed; ValueError: a NUL character in the name
        return None


def _is_one_file(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    if one is None or other is None:
        return False
    return stat.S_ISREG(one.st_mode) and os.path.samestat(one, other)
