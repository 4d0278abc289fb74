"""What the user is told on stderr: tips, notes, warnings and errors.

tip      advice, dim; only where stderr is a terminal, since an editor may put it into its buffer
note     what happens; not with -q, and not in what an editor's filter gives back
warn     what changes the result or its cost; with -q, too
show     what was asked for
error    why there is no result
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from codegen_cli.terminal import redirection, screen
from codegen_cli.terminal.streams import escaped, read_stdin

_INDENT = "  "  # of the lines after the first that a message takes on a terminal
_is_quiet = False
_is_in_text = False
_is_after_unfinished_line = False
_is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)


def set_quiet(quiet: bool) -> None:
    """Leave out notes and progress from now on; errors are always shown."""
    global _is_quiet
    _is_quiet = quiet


def keep_out_of_filters() -> None:
    """Leave out notes from now on if an editor may put them into the text that it filters.

    What changes the result is told all the same, but where both streams lead to one place: then it
    would be a part of the text for sure.
    """
    global _is_quiet, _is_in_text
    if redirection.is_filter():
        _is_quiet, _is_in_text = True, redirection.lead_together()


@contextmanager
def silence() -> Iterator[None]:
    """Leave out notes and progress here and in what is called, whatever other threads show."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


def note(text: str) -> None:
    """Tell the user something that is no error."""
    if not leaves_out_notes():
        show(f"codegen: {text}")


def tip(text: str) -> None:
    """Tell somebody at a terminal what no editor and no log can use; "": there is nothing to tell.

    The text may have several lines.
    """
    if text and sys.stderr.isatty() and not leaves_out_notes():
        _tell(f"codegen: {text}", is_dim=screen.shows_colours(sys.stderr))


def warn(text: str) -> None:
    """Tell the user something that matters, quiet or not."""
    if not (_is_silent.get() or _is_in_text):
        show(f"codegen: {text}")


def show(text: str) -> None:
    """Show what was asked for, quiet or not."""
    _tell(text)


def error(message: str, hint: str = "") -> None:
    """Show what went wrong and, on a line of its own, what to do."""
    _tell(f"error: {message}")
    if hint:
        _tell(f"hint: {hint}")


def end_line() -> None:
    """Have the next line on stderr begin as one, where stdout's last line is unfinished.

    A terminal is moved to a new line at once, for the shell; stdout is never touched.
    """
    global _is_after_unfinished_line
    if redirection.lead_together():
        _is_after_unfinished_line = not sys.stderr.isatty()
        if sys.stderr.isatty():
            print(file=sys.stderr, flush=True)


def _tell(text: str, is_dim: bool = False) -> None:
    global _is_after_unfinished_line
    lines = screen.wrapped(_inert(text), screen.columns(sys.stderr), _INDENT)
    start = "\n" if _is_after_unfinished_line else ""
    print(start + (f"\x1b[2m{lines}\x1b[0m" if is_dim else lines), file=sys.stderr, flush=True)
    _is_after_unfinished_line = False


def is_interactive() -> bool:
    """Tell whether somebody can be asked: stdin and stderr are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but yes is no."""
    asked = screen.wrapped(f"{_inert(question)} [y/N] ", screen.columns(sys.stderr), _INDENT)
    print(asked, end="", file=sys.stderr, flush=True)
    try:
        answer = read_stdin()
    except OSError:  # the terminal is gone
        return False
    return answer.strip().lower() in (b"y", b"yes")


def size(n_bytes: int) -> str:
    """Return a size in words, in GB from a tenth of one on."""
    if n_bytes >= 1e8:
        return f"{n_bytes / 1e9:.1f} GB"
    if n_bytes >= 1e6:
        return f"{n_bytes / 1e6:.0f} MB"
    return f"{n_bytes / 1e3:.0f} kB" if n_bytes >= 1e3 else f"{n_bytes} bytes"


def printable(text: str) -> str:
    """Escape what would move a terminal's cursor or cannot be encoded: names come from files."""
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def _inert(text: str) -> str:
    """Escape what a terminal would act on, in each line; a message may quote a stranger's file."""
    return "\n".join(map(printable, text.split("\n")))


def leaves_out_notes() -> bool:
    """Tell whether notes and progress are not wanted here."""
    return _is_quiet or _is_silent.get()
