"""A moment on the monotonic clock -> how long is left, or TimeUp once it has passed."""

import threading
import time

Deadline = float | None  # seconds of time.monotonic(); None: no limit


class TimeUp(Exception):
    """The deadline passed; a stream that catches it ends with what it has."""


def remaining(deadline: Deadline) -> float | None:
    """Return the seconds left, or None without a limit.

    They are at least 0 and at most what the system can wait for in one call: 49 days or more.
    """
    if deadline is None:
        return None
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


def check_deadline(deadline: Deadline) -> None:
    """Raise TimeUp when no time is left."""
    if remaining(deadline) == 0.0:
        raise TimeUp
