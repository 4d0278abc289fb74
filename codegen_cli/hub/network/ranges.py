"""A URL and a place in a file -> its bytes from there on, over the connections of the hub's client.

Proxies, certificates and the offline switch act as in every request of the client. Redirects are
followed here, one at a time: the token goes to the hub and to no other host.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from codegen_cli.hub.network.errors import redirects_without_end
from codegen_cli.hub.network.failures import LinkExpired, NoRanges

_MOST_REDIRECTS = 10
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HTTP_OK, _HTTP_PARTIAL, _HTTP_NO_RANGE = 200, 206, 416
_REFUSED = (400, 401, 403, 404, 410)


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer.

    start       where the first of them is in the file
    file_bytes  of the whole file, None if the answer does not say
    """

    start: int
    file_bytes: int | None
    pieces: Iterator[bytes]


@contextmanager
def open_body(url: str, start: int, stop: int | None, *, whole: bool = False) -> Iterator[Body]:
    """Ask for the bytes start..stop of a file, up to its end if stop is None.

    whole  ask for all of it, as the server knows no ranges

    The body may begin at 0, where a server does not care for ranges, and end anywhere. Raises
    LinkExpired, NoRanges, UserError, and whatever the client raises for a status or a connection.
    """
    last = "" if stop is None else stop - 1
    wanted = {} if whole else {"Range": f"bytes={start}-{last}"}
    with _answer(url, wanted | {"Accept-Encoding": "identity"}) as response:
        is_encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        if response.status_code == _HTTP_OK:
            length = response.headers.get("Content-Length", "")
            file_bytes = int(length) if length.isdecimal() and not is_encoded else None
            pieces = response.iter_bytes() if is_encoded else response.iter_raw()
            yield Body(0, file_bytes, pieces)
            return
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if is_encoded or found is None or int(found[1]) != start:
            raise NoRanges
        yield Body(start, None if found[3] == "*" else int(found[3]), response.iter_raw())


@contextmanager
def _answer(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """The answer with a body that a URL leads to."""
    for _ in range(_MOST_REDIRECTS):
        is_hub = _origin(url) == _origin(constants.ENDPOINT)
        with get_session().stream(
            "GET",
            url,
            headers=build_hf_headers(token=None if is_hub else False) | headers,
            follow_redirects=False,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as response:
            if not response.has_redirect_location:
                _judge(response)
                yield response
                return
            url = urljoin(url, response.headers["Location"])
    raise redirects_without_end()


def _judge(response: Any) -> None:
    if response.status_code in (_HTTP_OK, _HTTP_PARTIAL):
        return
    if response.status_code == _HTTP_NO_RANGE:
        raise NoRanges
    if response.status_code in _REFUSED:
        raise LinkExpired(response.status_code)
    hf_raise_for_status(response)
    raise TypeError(f"status {response.status_code}, and no file")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
