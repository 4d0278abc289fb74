"""What is drawn: tables and heat maps on stdout, progress bars on stderr.

The only module on rich, imported when something is drawn; a plain line needs none.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from codegen_cli.console import leaves_out_notes, printable
from codegen_cli.streams import write_result


def table(rows: Sequence[Sequence[str]], headers: Sequence[str] = ()) -> None:
    """Write rows in columns to stdout; the first column is emphasised on a terminal.

    A terminal gets lines of its width, with colours unless NO_COLOR is set, and where it is too
    narrow for the columns a few lines for each row; a pipe or file gets plain lines of any length.
    Columns align where characters are wide.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw_table(rows, headers)
        return
    lines = _aligned([headers, *rows] if headers else rows)
    write_result("".join(f"{line}\n" for line in lines))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [_widest(column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(_padded, row, widths)).rstrip()


def _widest(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts))


def _padded(text: str, width: int) -> str:
    from rich.cells import cell_len

    return text + " " * (width - cell_len(text))


def _draw_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawing = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(headers))
    for i, header in enumerate(headers or rows[0] if rows else ()):
        drawing.add_column(
            header if headers else "",
            style="cyan" if i == 0 else "",
            header_style="bold",
            overflow="fold",
            no_wrap=i == 0,
        )
    for row in rows:
        drawing.add_row(*map(Text, row))  # Text: brackets in a name are no markup
    terminal = Console(highlight=False)
    unlimited = terminal.options.update(max_width=sys.maxsize)
    if not headers or terminal.measure(drawing, options=unlimited).minimum <= terminal.width:
        terminal.print(drawing)
        return
    labels = [_padded(header, _widest(headers[1:])) for header in headers[1:]]
    for first, *cells in rows:
        terminal.print(Text(first, "cyan"), soft_wrap=True)
        for label, cell in zip(labels, cells, strict=True):
            terminal.print(Text(f"    {label}  {cell}"), soft_wrap=True)


Advance = Callable[[float, float], None]
"""Told how much is done, and of how much."""


@contextmanager
def timer(label: str) -> Iterator[Advance]:
    """Show a bar and the seconds gone on a terminal, nothing elsewhere.

    Yields advance(done, total). Before the first call the bar shows just that something is at work.
    """
    if leaves_out_notes() or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def progress(label: str) -> Iterator[Advance]:
    """Show a bar on a terminal, nothing elsewhere; yields advance(done, total)."""
    if leaves_out_notes() or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(escape(printable(label)), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


# Probabilities from which a token has a style, from calm to hot; every terminal has the colours.
_HEAT = (
    (0.5, ""),
    (0.1, "black on bright_yellow"),
    (0.01, "black on yellow"),
    (0.001, "black on bright_red"),
    (0.0, "bold white on red"),
)
_TAB_CELLS = 4


def shows_colours() -> bool:
    """Tell whether stdout is a terminal that may be coloured (https://no-color.org)."""
    is_dumb = os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not is_dumb and not os.environ.get("NO_COLOR")


def heat_map(cells: Iterable[tuple[str, float]]) -> None:
    """Draw a text on the terminal, each part of it (text, probability) the hotter the less likely.

    Lines are numbered; a surprising line end is shown as a sign, and so is what a terminal would
    act on.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    terminal = Console(highlight=False, soft_wrap=True)
    number, line, column = 1, Text(), 0
    for text, probability in cells:
        style = next((style for least, style in _HEAT if probability >= least), "")
        for index, part in enumerate(text.split("\n")):
            if index:
                line.append("↵" if style else "", style)
                terminal.print(_numbered(number), line, sep="")
                number, line, column = number + 1, Text(), 0
            shown = _untabbed(part, column)
            column += cell_len(shown)
            line.append(shown, style)
    if line:
        terminal.print(_numbered(number), line, sep="")
    legend = Text(" " * 8)
    for least, style in _HEAT:
        legend.append(f" {least * 100:g} % and more " if least else " less ", style)
    terminal.print(legend)


def _untabbed(text: str, column: int) -> str:
    """Return text that starts in a column of cells as it is shown: tabs lead to every fourth."""
    from rich.cells import cell_len

    shown = ""
    for index, part in enumerate(text.split("\t")):
        if index:
            shown += " " * (_TAB_CELLS - (column + cell_len(shown)) % _TAB_CELLS)
        shown += printable(part)
    return shown


def _numbered(number: int) -> str:
    return f"[dim]{number:6}[/]  "
