"""A connection -> what was asked, noted, and an answer that is sent as its faults have it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import hub_answers
from hub_answers import Answer, Content
from hub_repository import Fault, Repository

if TYPE_CHECKING:
    from hub_server import Listener

CHUNK_BYTES = 1 << 16
DRIPS_PER_SECOND = 20


@dataclass
class Request:
    """What was asked, as it arrived, and what was answered."""

    method: str
    path: str
    range: str  # the header, or ""
    host: str  # name and port that the client meant
    authorization: str  # the header, or ""
    kind: str = "api"  # or "bytes" or "metadata" of a file
    file: str = ""
    status: int = 0
    sent_bytes: int = 0


class Connection(BaseHTTPRequestHandler):
    """Answers one connection: what is common to both hosts."""

    server: "Listener"
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests read `requests`."""

    def _handle(self) -> None:
        hub = self.server.hub
        self.target = urlsplit(self.path)
        names = ("Range", "Host", "Authorization")
        wanted, host, authorization = (self.headers.get(name, "") for name in names)
        path = unquote(self.target.path)
        self.asked = Request(self.command, path, wanted, host, authorization)
        self.faults: Sequence[Fault] = ()
        self._classify()
        hub.requests.append(self.asked)
        hub.before_answer(path)
        self._send(self._answer())

    def _classify(self) -> None:
        """Note the kind of answer and the file in `asked`."""

    def _answer(self) -> Answer:
        raise NotImplementedError

    def _failure(self, repository: Repository) -> Answer | None:
        """Choose the faults of this answer, and return the answer if it is one of them."""
        self.faults = repository.faults_of(self.asked.kind, self.asked.file)
        for fault in self.faults:
            if fault.status:
                return Answer(fault.status, dict(fault.headers), fault.body)
        return None

    def _content(self, data: bytes) -> bytes:
        """The bytes of the file asked for: its own, or what a fault has in their place."""
        replaced = [fault.content for fault in self.faults if fault.content is not None]
        return replaced[0] if replaced else data

    def _file_bytes(self, repository: Repository, data: bytes, etag: str) -> Answer:
        if self.asked.file in repository.flipped:
            data = data[:-1] + bytes([data[-1] ^ 1])
        is_whole = any(fault.ignores_range for fault in self.faults)
        wanted = "" if is_whole else self.asked.range
        return hub_answers.file_bytes(Content(data, etag), wanted, self.headers.get("If-Range", ""))

    def _send(self, answer: Answer) -> None:
        self.asked.status = answer.status
        headers = {"Content-Length": str(len(answer.body))} | answer.headers
        for fault in self.faults:
            headers |= fault.headers
        self.send_response(answer.status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.close_connection |= headers["Content-Length"] != str(len(answer.body))
            self._send_body(memoryview(answer.body))

    def _send_body(self, body: memoryview) -> None:
        pauses = {f.stall_after_bytes: f for f in self.faults if f.stall_after_bytes is not None}
        cuts = [f.cut_after_bytes for f in self.faults if f.cut_after_bytes is not None]
        rates = [f.bytes_per_second for f in self.faults if f.bytes_per_second]
        end = min([len(body), *cuts])
        start = 0
        for stop in sorted({min(at, end) for at in pauses} | {end}):
            self._send_part(body[start:stop], min(rates, default=0))
            if fault := pauses.get(stop):
                fault.stalled.set()
                fault.goes_on.wait()
            start = stop
        self.close_connection |= bool(cuts)

    def _send_part(self, part: memoryview, bytes_per_second: float) -> None:
        step = max(1, int(bytes_per_second / DRIPS_PER_SECOND)) if bytes_per_second else CHUNK_BYTES
        for start in range(0, len(part), step):
            chunk = part[start : start + step]
            self.asked.sent_bytes += len(chunk)  # first: whoever has them finds them counted
            self.wfile.write(chunk)
            if bytes_per_second:
                time.sleep(len(chunk) / bytes_per_second)
