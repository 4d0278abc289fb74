"""Repositories of bytes -> a small Hugging Face hub on 127.0.0.1, for the real client to talk to.

Answers what huggingface_hub asks: a model's info (commit, files, sizes, hashes), and its files by
HEAD and GET with ETag, X-Repo-Commit, Content-Length and ranges. Weights have the SHA-256 of large
files for a hash, others git's. Point the client at it with HF_ENDPOINT; the client reads that when
it is imported, so it must run in a process of its own.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

INFO_PATH = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
FILE_PATH = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Repository:
    """A model repository: its files by name, and the faults it should show."""

    files: dict[str, bytes]
    revision: str = "main"
    gated: bool = False
    failing_status: int = 0  # answer everything with this HTTP status
    failing_headers: dict[str, str] = field(default_factory=dict)  # and these headers
    failing_body: bytes = b""
    failing_files: bool = False  # only where a file is asked for
    flipped: set[str] = field(default_factory=set)  # files that arrive with their last bit flipped
    states_hashes: bool = True  # in the info
    etags: dict[str, str] = field(default_factory=dict)  # instead of the hash
    info: bytes | None = None  # answer this when asked for the model's info
    stated_bytes: dict[str, int] = field(default_factory=dict)  # sizes that the info lies about
    cut_after_bytes: dict[str, int] = field(default_factory=dict)  # close the connection there

    @property
    def commit(self) -> str:
        """A hash of the contents, as git would have it: other files, another commit."""
        listing = sorted(
            (name, hashlib.sha1(data).hexdigest()) for name, data in self.files.items()
        )
        return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


def is_large(file: str) -> bool:
    """Tell whether the hub keeps a file in git's large file storage."""
    return file.endswith((".bin", ".safetensors"))


def content_hash(file: str, data: bytes) -> str:
    """The hash by which the hub names a file's content."""
    if is_large(file):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` at `url` within a with block; `requests` lists what was asked.

    A request is (method, path, Range header or ""); `before_answer` is called with its path.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repositories = repositories
        self.requests: list[tuple[str, str, str]] = []
        self.before_answer: Callable[[str], None] = lambda path: None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away: the tests kill them."""

    def fetched_files(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order."""
        paths = (FILE_PATH.fullmatch(path) for method, path, _ in self.requests if method == "GET")
        return [path["file"] for path in paths if path]


class _HubHandler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests read `requests`."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range", "")))
        self.server.before_answer(path)
        found = INFO_PATH.fullmatch(path) or FILE_PATH.fullmatch(path)
        repository = self.server.repositories.get(found["name"]) if found else None
        if found is None or repository is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound")
        elif repository.failing_status and (found.re is FILE_PATH or not repository.failing_files):
            self._send(
                repository.failing_status, repository.failing_headers, repository.failing_body
            )
        elif repository.gated:
            self._refuse(HTTPStatus.FORBIDDEN, "GatedRepo")
        elif (found["revision"] or repository.revision) not in (
            repository.revision,
            repository.commit,
        ):
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        elif found.re is INFO_PATH:
            self._send_info(found["name"], repository)
        elif found["file"] in repository.files:
            self._send_file(repository, found["file"])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", repository.commit)

    def _send_info(self, name: str, repository: Repository) -> None:
        sizes = {file: len(data) for file, data in repository.files.items()}
        siblings = [
            {"rfilename": file, "size": size, **_stated_hash(repository, file)}
            for file, size in (sizes | repository.stated_bytes).items()
        ]
        info = {"id": name, "sha": repository.commit, "siblings": siblings}
        body = json.dumps(info).encode() if repository.info is None else repository.info
        self._send(HTTPStatus.OK, {"Content-Type": "application/json"}, body)

    def _send_file(self, repository: Repository, file: str) -> None:
        data = repository.files[file]
        headers = {
            "ETag": f'"{repository.etags.get(file) or content_hash(file, data)}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        if file in repository.flipped:
            data = data[:-1] + bytes([data[-1] ^ 1])
        status, start = HTTPStatus.OK, 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = HTTPStatus.PARTIAL_CONTENT, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(status, headers, data[start:], repository.cut_after_bytes.get(file))

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Repo-Commit": commit}
        self._send(status, {name: value for name, value in headers.items() if value}, b"")

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, cut_after_bytes: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut_after_bytes])
            self.close_connection = cut_after_bytes is not None


def _stated_hash(repository: Repository, file: str) -> dict[str, object]:
    """What the info says of a file's hash; the hash in git is that of a pointer if it is large."""
    data = repository.files[file]
    if not repository.states_hashes:
        return {}
    if not is_large(file):
        return {"blobId": content_hash(file, data)}
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:..."
    lfs = {"sha256": content_hash(file, data), "size": len(data), "pointerSize": len(pointer)}
    return {"blobId": content_hash("pointer", pointer), "lfs": lfs}
