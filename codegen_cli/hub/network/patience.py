"""A request that failed -> a wait before the next one, or the failure itself once it is enough."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

# HTTPError belongs to the HTTP library that this version of the hub uses, httpx or httpx2.
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.errors import HTTPError as HttpError  # type: ignore[attr-defined]

from codegen_cli.hub.network.errors import first_line
from codegen_cli.hub.network.failures import ConnectionCut, LinkExpired, NoRanges, WrongLength
from codegen_cli.terminal import console

MOST_FAILURES = 5
"""So many in a row, without a byte in between, are the end."""

LONGEST_WAIT_SECONDS = 300
"""Who is asked to wait for longer is told so instead."""

_PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_SHORTEST_NOTED_SECONDS = 2


class Patience:
    """Counts the failures of one piece of work, and waits after each."""

    def __init__(self, what: str) -> None:
        """what: is fetched, as notes name it."""
        self._what = what
        self._n_failures = 0

    def failed(self, error: Exception, *, has_progressed: bool = False) -> None:
        """Wait as long as the server asks, or longer each time; raise the error if it is enough.

        Where bytes have come since the last failure it counts as the first, and only a wait that
        was asked for is made.
        """
        asked = asked_seconds(error)
        self._n_failures = 1 if has_progressed else self._n_failures + 1
        is_passing = passes_by(error) and self._n_failures < MOST_FAILURES
        if not is_passing or (asked or 0) > LONGEST_WAIT_SECONDS:
            raise error
        if asked is not None:
            console.note(f"the hub asks to wait {asked:.0f} s")
        seconds = asked if asked is not None else 2.0 ** (self._n_failures - 1)
        if asked is None and has_progressed:
            return
        if asked is None and seconds >= _SHORTEST_NOTED_SECONDS:
            console.note(f"{self._what}: {_reason(error)}; trying again in {seconds:.0f} s")
        time.sleep(seconds)


def passes_by(error: Exception) -> bool:
    """Tell whether another try may cure what was raised for a request."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING_STATUSES
    return isinstance(error, HttpError | LinkExpired | NoRanges | ConnectionCut | WrongLength)


def asked_seconds(error: Exception) -> float | None:
    """Return how long a server asks to wait: Retry-After, or t= of the hub's RateLimit header."""
    if not isinstance(error, HfHubHTTPError):
        return None
    headers: Mapping[str, str] = error.response.headers
    stated = headers.get("Retry-After", "").strip()
    if not stated and error.response.status_code == 429:
        stated = headers.get("RateLimit", "").partition(";t=")[2].partition(";")[0].strip()
    if stated.isascii() and stated.isdigit():
        return float(stated[:9])
    try:
        return max(parsedate_to_datetime(stated).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _reason(error: Exception) -> str:
    match error:
        case HfHubHTTPError():
            return f"the hub answered {error.response.status_code}"
        case LinkExpired():
            return "the link has expired"
        case ConnectionCut():
            return "the connection was cut"
        case NoRanges():
            return "the server has no parts of files"
    return first_line(error)
