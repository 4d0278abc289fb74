"""Answers of a batch as they are written -> its progress on stderr, and a line at its end."""

import contextlib
import time
from collections.abc import Iterator

from codegen_cli.terminal import console, drawing
from codegen_cli.terminal.progress_lines import duration


class BatchProgress:
    """Counts what this run does; a bar shows it while there is one.

    n_lines  to answer in all; None: not known
    n_done   of them, that a run before this one has answered
    """

    def __init__(self, n_lines: int | None, n_done: int) -> None:
        self._n_lines = n_lines
        self._n_before = self._n_done = n_done
        self._n_tokens = 0
        self._started = time.monotonic()
        self._advance: drawing.Advance = lambda done, total: None

    @contextlib.contextmanager
    def shown(self, name: str) -> Iterator[None]:
        """Show it, under a name."""
        if self._n_lines is None:
            yield
            return
        with drawing.progress(name, is_long=True, speed=self._speed) as self._advance:
            self._advance(self._n_done, self._n_lines)
            yield

    def answered(self, n_tokens: int) -> None:
        """Count an answer for which so many tokens were sampled."""
        self._n_done += 1
        self._n_tokens += n_tokens
        if self._n_lines is not None:
            self._advance(self._n_done, self._n_lines)

    def tell(self) -> None:
        """Tell what was done."""
        n_answers = self._n_done - self._n_before
        seconds = duration(time.monotonic() - self._started)
        console.note(
            f"{_counted(n_answers, 'answer')}, {_counted(self._n_tokens, 'token')} in {seconds} "
            f"({self._speed()})"
        )

    def _speed(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{self._n_tokens / seconds if seconds else 0.0:.1f} tokens/s"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
