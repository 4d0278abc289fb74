"""A blob of the hub's cache -> the lock on it, which whoever fetches it holds.

It is the hub's own: .locks/models--OWNER--NAME/ETAG.lock. The system takes it back however the
program ends.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

_MODE = 0o664  # as the hub's client makes them: a group may share a cache
_POLL_SECONDS = 0.2


def lock_path(blob: Path) -> Path:
    """Return where the lock on a blob is."""
    repository_dir = blob.parent.parent
    return repository_dir.parent / ".locks" / repository_dir.name / f"{blob.name}.lock"


@contextlib.contextmanager
def locked(blob: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on a blob; on_wait is called before another program is waited for.

    Raises OSError where the file system refuses.
    """
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    path = lock_path(blob)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock: BaseFileLock = FileLock(path, mode=_MODE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire(poll_interval=_POLL_SECONDS)
    except NotImplementedError:  # a file system without locks: as the hub's client does then
        lock = SoftFileLock(path, mode=_MODE)
        lock.acquire(poll_interval=_POLL_SECONDS)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.release()


def is_free(blob: Path) -> bool:
    """Tell whether nobody has the lock on a blob; False where that cannot be told."""
    from filelock import FileLock, Timeout

    path = lock_path(blob)
    try:
        if path.exists():  # else nobody holds it, and none is made to look
            with FileLock(path, timeout=0, mode=_MODE):
                pass
    except (Timeout, OSError, NotImplementedError):
        return False
    return True
