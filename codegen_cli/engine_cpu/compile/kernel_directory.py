"""The user's directory for compiled kernels: whether code can be kept there, and whose turn it is.

Cached code is executed, so the directory must be the user's own and closed to others.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_cli.machine import places
from codegen_cli.machine.closed_directory import ELSEWHERE, require_closed
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

STUCK_SECONDS = 120.0
"""How long another process may show no progress: it is taken for stopped then, or stuck."""

_POLL_SECONDS = 0.1
_ROOM_BYTES = 1 << 20  # for object code, of which there are 75 to 610 kB


def directory() -> Path:
    """Return where object code is kept. Raises NoHome."""
    return places.cache_dir() / "kernels"


def is_trusted() -> bool:
    """Tell whether the directory exists, belongs to this user, and only this user may write it."""
    try:
        require_closed(directory())
    except (UserError, OSError):
        return False
    return True


def require_room() -> Path:
    """Return the directory, made if need be, once it is known that code can be kept there safely.

    Raises UserError: why it cannot be, and the cure.
    """
    place = directory()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_closed(place)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(_ROOM_BYTES))
    except FileExistsError as error:
        raise UserError(f"{place} is not a directory", ELSEWHERE) from error
    except OSError as error:
        raise UserError(f"cannot write to {place}: {error.strerror}", ELSEWHERE) from error
    return place


@contextmanager
def turn(place: Path, on_wait: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Work while no other process does under a lock at `place`; call `on_wait` first if one does.

    Yields what the worker must call now and then: the others see that it lives. The system takes
    the lock back from a process that ends, however it ends. Where one lives no more and does not
    end, or where files cannot be locked, the work is done all the same.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(place)
    # NotImplementedError: a file system without locks.
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            _wait_for(lock, place)

    def show_life() -> None:
        with suppress(OSError):
            os.utime(place)

    try:
        yield show_life
    finally:
        lock.release()


def _wait_for(lock: "BaseFileLock", place: Path) -> None:
    """Acquire a lock that another process holds, unless that process lives no more."""
    from filelock import Timeout

    life, seen = place.stat().st_mtime_ns, time.monotonic()
    while time.monotonic() - seen < STUCK_SECONDS:
        with suppress(Timeout):
            lock.acquire(timeout=1, poll_interval=_POLL_SECONDS)
            return
        if (now := place.stat().st_mtime_ns) != life:
            life, seen = now, time.monotonic()
