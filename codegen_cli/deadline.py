"""A moment on the monotonic clock -> how long is left, or TimeUp once it has passed."""

import time

Deadline = float | None  # seconds of time.monotonic(); None: no limit


class TimeUp(Exception):
    """The deadline passed; caught by generate, which then ends with what it has."""


def remaining(deadline: Deadline) -> float | None:
    """Return the seconds left, never below 0, or None without a limit."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def check_deadline(deadline: Deadline) -> None:
    """Raise TimeUp when no time is left."""
    if remaining(deadline) == 0.0:
        raise TimeUp
