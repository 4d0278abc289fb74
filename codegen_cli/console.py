"""What the user is told beside the completion: notes, errors and progress, all on stderr.

The only module on rich, imported when something is drawn; a plain line needs none.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_is_quiet = False


def set_quiet(quiet: bool) -> None:
    """Leave out notes and progress from now on; errors are always shown."""
    global _is_quiet
    _is_quiet = quiet


def note(text: str) -> None:
    """Tell the user something that is no error."""
    if not _is_quiet:
        print(f"codegen: {text}", file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Show what was asked for, quiet or not."""
    print(text, file=sys.stderr, flush=True)


def error(message: str, hint: str = "") -> None:
    """Show what went wrong and, on a line of its own, what to do."""
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def end_line() -> None:
    """Move the terminal to a new line, without touching stdout."""
    print(file=sys.stderr, flush=True)


@contextmanager
def progress(label: str) -> Iterator[Callable[[float, float], None]]:
    """Show a bar on a terminal, nothing elsewhere; yields advance(done, total)."""
    if _is_quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
