"""A stream's terminal: its width, its colours; text -> lines that fit it, broken between words.

Plain messages pass here: nothing that takes time to import.
"""

import os
from typing import TextIO

USUAL_COLUMNS = 80
"""The width of lines for a log, and of a terminal that does not tell its own."""


def columns(stream: TextIO) -> int | None:
    """Return the width of the terminal that a stream leads to; None where it leads elsewhere.

    COLUMNS goes before what the terminal says, as it does in typer and rich.
    """
    if not stream.isatty():
        return None
    stated = os.environ.get("COLUMNS", "")
    if stated.isascii() and stated.isdigit() and int(stated):
        return int(stated)
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS
    except OSError:
        return USUAL_COLUMNS


def moves_cursor(stream: TextIO) -> bool:
    """Tell whether a stream leads to a terminal that obeys escape codes, as a dumb one does not."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def shows_colours(stream: TextIO) -> bool:
    """Tell whether a stream leads to a terminal that may be coloured (https://no-color.org)."""
    return moves_cursor(stream) and not os.environ.get("NO_COLOR")


def wrapped(text: str, width: int | None, indent: str = "") -> str:
    """Break the lines of a text between words so that each fits into `width` cells.

    width   None: leave the text as it is
    indent  what lines begin with that the text does not have

    A word that is wider, such as a path, stays whole: where a terminal breaks it, it can be copied.
    """
    if width is None:
        return text
    return "\n".join(part for line in text.split("\n") for part in _broken(line, width, indent))


def _broken(line: str, width: int, indent: str) -> list[str]:
    first, *words = line.lstrip(" ").split(" ")
    lines, current = [], line[: len(line) - len(line.lstrip(" "))] + first
    for word in words:
        longer = f"{current} {word}"
        if n_cells(longer) <= width:
            current = longer
        else:
            lines.append(current.rstrip(" "))
            current = indent + word
    return [*lines, current]


def n_cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: two for a wide character, none for a mark.

    https://www.unicode.org/reports/tr11
    """
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    widths = (0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)
    return sum(widths)
