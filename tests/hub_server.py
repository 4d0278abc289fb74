"""Repositories of bytes -> a small Hugging Face hub on 127.0.0.1, for the real client to talk to.

Answers what huggingface_hub asks: a model's info, tree and refs, and its files by HEAD and GET, in
whole or in ranges. Large files have their SHA-256 for a hash, others git's; with
`Repository.storage` they come from another host, by a signed URL that expires. Point the client at
it with HF_ENDPOINT; the client reads that when it is imported, so it must run in a process of its
own.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import hub_answers
from hub_answers import Answer
from hub_connection import Connection, Request
from hub_repository import Fault, Repository, commit_of, content_hash, is_large

__all__ = ["Fault", "HubServer", "Repository", "Request", "content_hash", "is_large"]

API_PATH = re.compile(
    r"/api/models/(?P<name>[^/]+/[^/]+)"
    r"(/(?P<route>revision|tree|refs|xet-read-token)(/(?P<revision>[^/]+)(/(?P<folder>.+))?)?)?"
)
FILE_PATH = re.compile(
    r"(/api/resolve-cache/models)?/(?P<name>[^/]+/[^/]+)"
    r"(?(1)/|/resolve/)(?P<revision>[^/]+)/(?P<file>.+)"
)


@dataclass
class _Ticket:
    """What a signed URL gives, how often it did, and since when."""

    repository: Repository
    file: str
    data: bytes
    issued_seconds: float
    n_answers: int = 0

    def is_expired(self) -> bool:
        limit = self.repository.url_answers
        age_seconds = time.monotonic() - self.issued_seconds
        is_used_up = limit is not None and self.n_answers >= limit
        return is_used_up or age_seconds > self.repository.url_seconds


class Listener(ThreadingHTTPServer):
    """A port of 127.0.0.1, and the thread that serves it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: "HubServer", handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away: the tests kill them."""


class HubServer:
    """Serves `repositories` at `url` within a with block; `requests` lists what was asked.

    Large files that are stored apart come from `storage_url`, the same machine by another name.
    `before_answer` is called with the path of each request.
    """

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.requests: list[Request] = []
        self.before_answer: Callable[[str], None] = lambda path: None
        self.tickets: dict[str, _Ticket] = {}
        self._listeners = [Listener(self, _HubHandler), Listener(self, _StorageHandler)]
        ports = [listener.server_address[1] for listener in self._listeners]
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.storage_url = f"http://localhost:{ports[1]}"

    def __enter__(self) -> "HubServer":
        for listener in self._listeners:
            listener.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for repository in self.repositories.values():
            for fault in repository.faults:
                fault.goes_on.set()
        for listener in self._listeners:
            listener.stop()

    def fetched_files(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order."""
        return [request.file for request in self.requests if request.kind == "bytes"]

    def fetched_bytes(self, file: str) -> int:
        """Bytes of a file that were sent, in all answers together."""
        answers = [each for each in self.requests if (each.kind, each.file) == ("bytes", file)]
        return sum(each.sent_bytes for each in answers if each.status in (200, 206))

    def storage_requests(self) -> list[Request]:
        """What the other host was asked."""
        host = urlsplit(self.storage_url).netloc
        return [request for request in self.requests if request.host == host]

    def signed_url(self, name: str, repository: Repository, file: str, data: bytes) -> str:
        """A URL of the other host that gives a file's content for a while."""
        signature = secrets.token_hex(16)
        self.tickets[signature] = _Ticket(repository, file, data, time.monotonic())
        path = quote(f"/storage/{name}/{content_hash(file, data)}/{file}")
        query = {"X-Amz-Expires": int(repository.url_seconds), "X-Amz-Signature": signature}
        return f"{self.storage_url}{path}?{urlencode(query)}"


class _HubHandler(Connection):
    """Answers as huggingface.co does."""

    def _classify(self) -> None:
        path = self.target.path
        self.found = FILE_PATH.fullmatch(path) or API_PATH.fullmatch(path)
        parts = self.found.groupdict() if self.found else {}
        self.name, self.revision = parts.get("name", ""), unquote(parts.get("revision") or "")
        self.asked.file = unquote(parts.get("file", ""))
        if self.asked.file:
            repository = self.server.hub.repositories.get(self.name)
            is_bytes = self.command == "GET" and not (repository and self._redirects(repository))
            self.asked.kind = "bytes" if is_bytes else "metadata"

    def _redirects(self, repository: Repository) -> bool:
        if is_large(self.asked.file):
            return bool(repository.storage)
        return repository.redirects_small and "/resolve/" in self.target.path

    def _answer(self) -> Answer:
        repository = self.server.hub.repositories.get(self.name)
        if self.found is None or repository is None:
            return hub_answers.refusal(404, "RepoNotFound", "Repository not found")
        if failure := self._failure(repository):
            return failure
        token = self.asked.authorization.removeprefix("Bearer ")
        kind = self.asked.kind
        if refused := hub_answers.access_refusal(repository, self.name, token, kind):
            return refused
        files = repository.files_at(self.revision or repository.revision)
        if files is None:
            return hub_answers.refusal(404, "RevisionNotFound", f"Invalid rev id: {self.revision}")
        if self.asked.file:
            return self._file(repository, files)
        return self._api(repository, files)

    def _api(self, repository: Repository, files: dict[str, bytes]) -> Answer:
        route, folder = self.found["route"], unquote(self.found["folder"] or "")
        if route == "refs":
            return hub_answers.refs(repository)
        if route == "xet-read-token":
            return hub_answers.refusal(404, "", "No Xet here: HF_HUB_DISABLE_XET=1")
        if route != "tree":
            return hub_answers.info(repository, self.name, files, commit_of(files))
        query = dict(parse_qsl(self.target.query))
        answer, next_start = hub_answers.tree(repository, files, folder, query)
        if next_start is not None:
            more = urlencode(query | {"cursor": next_start})
            answer.headers["Link"] = f'<{self._url()}{self.target.path}?{more}>; rel="next"'
        return answer

    def _file(self, repository: Repository, files: dict[str, bytes]) -> Answer:
        file, commit = self.asked.file, commit_of(files)
        if file not in files:
            return hub_answers.refusal(404, "EntryNotFound", "Entry not found", commit)
        data = self._content(files[file])
        if self._redirects(repository):
            answer = self._redirect(repository, data, commit)
        else:
            etag = f'"{repository.etags.get(file) or content_hash(file, data)}"'
            answer = self._file_bytes(repository, data, etag)
        answer.headers["X-Repo-Commit"] = commit
        return answer

    def _redirect(self, repository: Repository, data: bytes, commit: str) -> Answer:
        file = self.asked.file
        if is_large(file):
            location = self.server.hub.signed_url(self.name, repository, file, data)
            token_url = f"{self._url()}/api/models/{self.name}/xet-read-token/{commit}"
            return hub_answers.large_file_redirect(repository, file, data, location, token_url)
        location = f"/api/resolve-cache/models/{self.name}/{commit}/{quote(file)}"
        body = f"Temporary Redirect. Redirecting to {location}".encode()
        return Answer(HTTPStatus.TEMPORARY_REDIRECT, {"Location": location}, body)

    def _url(self) -> str:
        return self.server.hub.url


class _StorageHandler(Connection):
    """Answers as the host of signed URLs does: it knows contents, and no repositories."""

    def _classify(self) -> None:
        query = dict(parse_qsl(self.target.query))
        self.ticket = self.server.hub.tickets.get(query.get("X-Amz-Signature", ""))
        self.asked.kind = "bytes" if self.command == "GET" else "metadata"
        self.asked.file = self.ticket.file if self.ticket else ""

    def _answer(self) -> Answer:
        if self.ticket is None:
            return hub_answers.expired()
        if failure := self._failure(self.ticket.repository):
            return failure
        if self.ticket.is_expired():
            return hub_answers.expired()
        self.ticket.n_answers += 1
        data = self._content(self.ticket.data)
        etag = f'"{content_hash(self.ticket.file, data)[:32]}-4"'  # no hash of the content
        return self._file_bytes(self.ticket.repository, data, etag)
