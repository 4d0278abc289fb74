"""What keeps an engine from beginning at once, as it tells whoever opens it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from quantize.files.errors import UserError


class Delay(NamedTuple):
    """What a start spends seconds on, and how far that is.

    kind         compiling, or waiting for another process that compiles
    obstacle     why the next start will have to compile again; None: it will not
    done, total  parts of the work; 0 of 0: not known
    """

    kind: Literal["compiling", "waiting"]
    obstacle: UserError | None = None
    done: int = 0
    total: int = 0


OnDelay = Callable[[Delay], None]
"""Called when a delay begins, and whenever it has come further."""
