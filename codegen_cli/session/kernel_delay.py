"""Kernels that have to be compiled first -> a line on stderr, and on a terminal a bar meanwhile."""

import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from codegen_cli.contract.delay import Delay
from codegen_cli.terminal import console, drawing

_SECONDS = "20 to 60 s"
_LABELS = {"compiling": "compiling kernels", "waiting": "waiting for another process"}


class KernelDelay:
    """What load_step tells -> what the user sees, until the context ends.

    The kernels are compiled in another thread, which may outlive the context: what it tells then is
    shown no more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar = ExitStack()
        self._advance: drawing.Advance = lambda done, total: None
        self._kind = ""
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._is_over = True
            self._bar.close()

    def __call__(self, delay: Delay) -> None:
        """Show how far a delay is; the first time in a line that stays."""
        with self._lock:
            if self._is_over:
                return
            if delay.kind != self._kind:
                self._kind = delay.kind
                self._bar.close()
                console.note(_line(delay))
                self._advance = self._bar.enter_context(
                    drawing.progress(_LABELS[delay.kind], "seconds")
                )
            if delay.total:
                self._advance(delay.done, delay.total)


def _line(delay: Delay) -> str:
    if delay.kind == "waiting":
        return "another process is compiling the kernels for this CPU: waiting for it"
    compiling = f"compiling kernels for this CPU, {_SECONDS}"
    if delay.obstacle is None:
        return f"{compiling}, once"
    cure = delay.obstacle.hint.removesuffix(".")
    return f"{compiling}, at every start: {delay.obstacle.message} ({cure})"
