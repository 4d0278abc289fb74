"""What is drawn: heat maps on stdout, progress bars and growing texts on stderr.

The only module on rich, imported when something is drawn; a plain line needs none.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from codegen_cli.terminal import screen
from codegen_cli.terminal.console import leaves_out_notes, printable
from codegen_cli.terminal.progress_lines import ProgressLines

if TYPE_CHECKING:
    from rich.console import Group
    from rich.progress import ProgressColumn
    from rich.text import Text


_THEME = {
    # No colour that a light or a dark background swallows: what is done in magenta, the rest plain.
    "bar.complete": "magenta",
    "bar.finished": "magenta",
    "bar.pulse": "magenta",
    "bar.back": "dim",
    "progress.download": "none",
    "progress.data.speed": "none",
    "progress.percentage": "none",
    "progress.remaining": "none",
    "progress.elapsed": "none",
}
Shown = Literal["share", "bytes", "seconds"]
# Cells that these take at most: "100% 1:00:00", "999.9/999.9 MB 999.9 MB/s 1:00:00", "0:00:00".
_CELLS: dict[Shown, int] = {"share": 12, "bytes": 33, "seconds": 7}
_SPEED_CELLS = 17  # "9999.9 tokens/s "
_LEAST_BAR, _MOST_BAR = 8, 40

Advance = Callable[[float, float], None]
"""Told how much is done, and of how much."""


@contextmanager
def progress(
    label: str,
    shown: Shown = "share",
    *,
    is_long: bool = False,
    speed: Callable[[], str] | None = None,
) -> Iterator[Advance]:
    """Show a bar on a terminal; yields advance(done, total).

    shown    share: of the work, and the time left; bytes: those done, and how many come in a
             second; seconds: the time gone
    is_long  elsewhere tell it in a line now and then; else nothing is shown there
    speed    of a share: what else to show of how fast it is, in a few words

    Before the first call the bar shows just that something is at work. What is done by then counts
    for the bar, and not for the speed.
    """
    if leaves_out_notes() or not (is_long or screen.moves_cursor(sys.stderr)):
        yield lambda done, total: None
        return
    if not screen.moves_cursor(sys.stderr):
        yield ProgressLines(label, in_bytes=shown == "bytes", speed=speed).advance
        return
    from rich.console import Console
    from rich.progress import Progress
    from rich.theme import Theme

    # Without a colour system, rich writes no style at all.
    colours: Literal["auto"] | None = "auto" if screen.shows_colours(sys.stderr) else None
    drawing = Console(stderr=True, theme=Theme(_THEME), color_system=colours)
    columns, label = _columns(label, drawing.width, shown, has_speed=speed is not None)
    told = speed or str
    with Progress(*columns, console=drawing, transient=True) as bars:
        task = bars.add_task(label, total=None, speed="")
        has_begun = False

        def advance(done: float, total: float) -> None:
            nonlocal has_begun
            if not has_begun:
                bars.reset(task, completed=int(done), total=total)
                has_begun = True
            bars.update(task, completed=done, total=total, speed=told())

        yield advance


def _columns(
    label: str, width: int, shown: Shown, *, has_speed: bool
) -> "tuple[list[ProgressColumn], str]":
    """Return what fits into a line: the numbers in any case, then the label, then a bar."""
    from rich import progress as parts
    from rich.cells import cell_len, set_cell_size

    left = parts.TimeRemainingColumn(compact=True)
    numbers: dict[Shown, list[ProgressColumn]] = {
        "share": [parts.TaskProgressColumn(show_speed=False), left],
        "bytes": [parts.DownloadColumn(), parts.TransferSpeedColumn(), left],
        "seconds": [parts.TimeElapsedColumn()],
    }
    if has_speed:
        numbers["share"].insert(1, parts.TextColumn("{task.fields[speed]}", markup=False))
    room = width - _CELLS[shown] - _SPEED_CELLS * has_speed - 1
    label = printable(label)
    if cell_len(label) > room:
        label = set_cell_size(label, room - 1) + "…" if room > 1 else ""
    columns = [parts.TextColumn("{task.description}", markup=False), *numbers[shown]]
    bar = min(room - cell_len(label) - 1, _MOST_BAR)
    if bar >= _LEAST_BAR:
        columns.insert(1, parts.BarColumn(bar))
    return (columns if label else columns[1:]), label


_VIEWS_PER_SECOND = 8  # drawing one takes a millisecond or two

Grow = Callable[[int, str], None]
"""Told which text goes on, and how."""


@contextmanager
def growing_texts(n_texts: int) -> Iterator[Grow]:
    """Show the last lines of several texts on a terminal, until the context ends; yields grow."""
    if leaves_out_notes() or not screen.moves_cursor(sys.stderr):
        yield lambda index, text: None
        return
    from rich.console import Console
    from rich.live import Live

    view = _View(n_texts)
    colours: Literal["auto"] | None = "auto" if screen.shows_colours(sys.stderr) else None
    drawing = Console(stderr=True, highlight=False, color_system=colours)
    with Live(
        get_renderable=lambda: view.drawn(drawing.width, drawing.height - 1),
        console=drawing,
        refresh_per_second=_VIEWS_PER_SECOND,
        transient=True,
        redirect_stdout=False,  # results go around it
    ):
        yield view.grow


class _View:
    """Growing texts, of which the last lines are drawn; of more than fit, some that still grow."""

    def __init__(self, n_texts: int) -> None:
        self._texts = [""] * n_texts
        self._has_grown = [False] * n_texts  # since it was drawn last
        self._shown: list[int] = []

    def grow(self, index: int, text: str) -> None:
        """Let a text go on."""
        self._texts[index] += text
        self._has_grown[index] |= bool(text)

    def drawn(self, width: int, height: int) -> "Group":
        """Return the last lines of the texts that fit, as many of each as there is room for.

        A line that is too long shows its beginning; the last one, which grows, its end.
        """
        from rich.console import Group
        from rich.text import Text

        self._choose(max(1, height))
        n_lines = max(1, height // len(self._shown))
        n_digits = len(str(len(self._texts) - 1))
        lines = []
        for index in sorted(self._shown):
            *begins, end = self._texts[index].rstrip("\n").split("\n")[-n_lines:]
            begins = [_untabbed(line, 0) for line in begins]
            end = _end(_untabbed(end, 0), width - n_digits - 2)
            for row, line in enumerate([*begins, end]):
                label = f"{'' if row else index:>{n_digits}}  "
                shown = Text(no_wrap=True, overflow="ellipsis")
                lines.append(shown.append(label, "bold").append(line))
        return Group(*lines)

    def _choose(self, most: int) -> None:
        """Show at most so many texts; one that rests gives its place to one that does not."""
        n_texts, grown = len(self._texts), self._has_grown
        others = [i for i in range(n_texts) if i not in self._shown]
        others.sort(key=lambda i: not grown[i])
        n_free = max(0, most - len(self._shown))
        shown, others = [*self._shown[:most], *others[:n_free]], others[n_free:]
        growing = iter([i for i in others if grown[i]])
        self._shown = [i if grown[i] else next(growing, i) for i in shown]
        self._has_grown = [False] * n_texts


def _end(line: str, width: int) -> str:
    """Return the end of a line that fits into so many cells."""
    from rich.cells import cell_len

    if cell_len(line) <= width:
        return line
    line = line[-width:]
    while line and cell_len(line) >= width:
        line = line[1:]
    return f"…{line}"


# Probabilities from which a token has a style, from calm to hot; every terminal has the colours.
_HEAT = (
    (0.5, ""),
    (0.1, "black on bright_yellow"),
    (0.01, "black on yellow"),
    (0.001, "black on bright_red"),
    (0.0, "bold white on red"),
)
_TAB_CELLS = 4


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
    terminal.print(_legend(terminal.width))


def _legend(width: int) -> "Text":
    """Return what each style means, on one line if that fits."""
    from rich.text import Text

    shares = [f" {least * 100:g} % and more " if least else " less " for least, _ in _HEAT]
    parts = [Text(share, style) for share, (_, style) in zip(shares, _HEAT, strict=True)]
    begin = " " * 8
    if len(begin) + sum(map(len, parts)) > width:
        return Text("\n").join(parts)
    return Text(begin) + Text("").join(parts)


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
