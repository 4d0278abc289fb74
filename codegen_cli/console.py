"""What the user is told on stderr: tips, notes, warnings and errors.

tip      advice; only where stderr is a terminal, since an editor may put it into its buffer
note     what happens; not with -q
warn     what changes the result or its cost; with -q, too
show     what was asked for
error    why there is no result
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from codegen_cli.streams import escaped, read_stdin

_is_quiet = False
_is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)


def set_quiet(quiet: bool) -> None:
    """Leave out notes and progress from now on; errors are always shown."""
    global _is_quiet
    _is_quiet = quiet


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
        print(f"codegen: {_inert(text)}", file=sys.stderr, flush=True)


def tip(text: str) -> None:
    """Tell the user something that only somebody at a terminal can use."""
    if sys.stderr.isatty():
        note(text)


def warn(text: str) -> None:
    """Tell the user something that matters, quiet or not."""
    if not _is_silent.get():
        show(f"codegen: {text}")


def note_compiling(text: str) -> None:
    """Tell the user what the first run waits for."""
    note(text)


def show(text: str) -> None:
    """Show what was asked for, quiet or not."""
    print(_inert(text), file=sys.stderr, flush=True)


def error(message: str, hint: str = "") -> None:
    """Show what went wrong and, on a line of its own, what to do."""
    print(f"error: {_inert(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {_inert(hint)}", file=sys.stderr)


def end_line() -> None:
    """Move the terminal to a new line, without touching stdout."""
    print(file=sys.stderr, flush=True)


def is_interactive() -> bool:
    """Tell whether somebody can be asked: stdin and stderr are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but yes is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        answer = read_stdin()
    except OSError:  # the terminal is gone
        return False
    return answer.strip().lower() in (b"y", b"yes")


def size(n_bytes: int) -> str:
    """Return a size in words, in GB from a tenth of one on."""
    if n_bytes >= 1e8:
        return f"{n_bytes / 1e9:.1f} GB"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"


def printable(text: str) -> str:
    """Escape what would move a terminal's cursor or cannot be encoded: names come from files."""
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def _inert(text: str) -> str:
    """Escape what a terminal would act on, in each line; a message may quote a stranger's file."""
    return "\n".join(map(printable, text.split("\n")))


def leaves_out_notes() -> bool:
    """Tell whether notes and progress are not wanted here."""
    return _is_quiet or _is_silent.get()
