"""Rows, facts and sentences -> lines on stdout, as wide as the terminal, plain for a pipe or file.

On a terminal what is named is bold, where it has styles: bold can be read on any background.
"""

import sys
from collections.abc import Iterator, Sequence

from codegen_cli.terminal import screen
from codegen_cli.terminal.console import printable
from codegen_cli.terminal.screen import n_cells, wrapped
from codegen_cli.terminal.streams import write_result

_GAP = "  "
_LEAST_COLUMNS = 24  # for an explanation: with fewer, a long one stands below what it explains
_MOST_COLUMNS = 100  # for sentences: longer lines are hard to read


def table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], *, wraps_last: bool = False
) -> None:
    """Write rows in columns, which align where characters are wide.

    A terminal that is too narrow for them gets a few lines for each row instead; with wraps_last
    it gets the last column in several lines first, as long as that leaves room for its header.
    A row without a first cell belongs to the one above.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(n_cells, column)) for column in zip(headers, *rows, strict=True)]
    start = sum(widths[:-1]) + len(_GAP) * len(widths[:-1])
    width = screen.columns(sys.stdout)
    last = n_cells(headers[-1]) if wraps_last else widths[-1]
    if width is not None and start + last > width:
        _write(_stacked(rows, headers, width))
    else:
        _write(_aligned([headers, *rows], widths, width))


def facts(rows: Sequence[tuple[str, str]], *, log_columns: int | None = None) -> None:
    """Write (name, text) pairs side by side; below its name what is too long for a narrow terminal.

    log_columns  the width of the lines where there is no terminal; None: a line for each pair
    """
    rows = [(printable(name), printable(text)) for name, text in rows]
    start = max(n_cells(name) for name, _ in rows) + len(_GAP)
    width = _sentence_columns(log_columns)
    _write(_fact(name, text, start, width) for name, text in rows)


def prose(text: str, *, indent: str = "", hang: str = "") -> None:
    """Write sentences: every line after an indent, those that go on after a hanging one as well."""
    width = _sentence_columns(None)
    _write(wrapped(indent + printable(line), width, indent + hang) for line in text.split("\n"))


def _sentence_columns(log_columns: int | None) -> int | None:
    width = screen.columns(sys.stdout)
    return log_columns if width is None else min(width, _MOST_COLUMNS)


def _write(lines: Iterator[str]) -> None:
    write_result("".join(f"{line}\n" for line in lines))


def _aligned(
    rows: Sequence[Sequence[str]], widths: Sequence[int], width: int | None
) -> Iterator[str]:
    indent = " " * (sum(widths[:-1]) + len(_GAP) * len(widths[:-1]))
    for index, (first, *cells) in enumerate(rows):
        begin = _padded(first, widths[0])
        rest = "".join(map(lambda cell, n: _GAP + _padded(cell, n), cells, widths[1:])).rstrip()
        line = f"{begin}{rest}" if rest else begin.rstrip()
        below = wrapped(line, width, indent)[len(begin) :]
        yield _bold(line[: len(begin)] + below) if index == 0 else _bold(begin) + below


def _stacked(rows: Sequence[Sequence[str]], headers: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines for each row: its first cell, then every other cell with its header."""
    label_cells = max(map(n_cells, headers[1:]))
    for first, *cells in rows:
        yield _bold(first)
        for header, cell in zip(headers[1:], cells, strict=True):
            if cell:
                line = f"    {_padded(header, label_cells)}{_GAP}{cell}"
                yield wrapped(line, width, " " * (4 + label_cells + len(_GAP)))


def _fact(name: str, text: str, start: int, width: int | None) -> str:
    if width is not None and not _fits_beside(text, width - start):
        return "\n".join([*([_bold(name)] if name else []), wrapped(f"    {text}", width, "    ")])
    lines = wrapped(text, None if width is None else width - start).split("\n")
    return (_bold(_padded(name, start)) + f"\n{' ' * start}".join(lines)).rstrip()


def _fits_beside(text: str, room: int) -> bool:
    """Tell whether a text can be broken between words so that it fits, and not into scraps."""
    if n_cells(text) <= room:
        return True
    return room >= _LEAST_COLUMNS and max(map(n_cells, text.split(" "))) <= room


def _padded(text: str, width: int) -> str:
    return text + " " * (width - n_cells(text))


def _bold(text: str) -> str:
    styled = text.strip() and screen.shows_colours(sys.stdout)
    return f"\x1b[1m{text}\x1b[0m" if styled else text
