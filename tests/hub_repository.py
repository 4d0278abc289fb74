"""Files of bytes -> what a hub holds of a model, and what should go wrong with its answers."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import lru_cache


@dataclass
class Fault:
    """What goes wrong with some answers of a repository; it may be changed while the hub runs.

    The kinds of answers are "bytes" (a GET that brings a file's content), "metadata" (of a file:
    HEAD, or GET where that is redirected) and "api".
    """

    file: str = "*"  # a file, or a pattern of fnmatch
    kind: str = "bytes"  # "": all kinds
    after: int = 0  # so many answers go well
    times: int | None = None  # then so many go wrong; None: all
    status: int = 0  # the answer is this status
    headers: Mapping[str, str] = field(default_factory=dict)  # with these; "" takes one away
    body: bytes = b""
    cut_after_bytes: int | None = None  # close the connection there
    stall_after_bytes: int | None = None  # set `stalled`, and send no more until `goes_on` is set
    bytes_per_second: float = 0  # of each connection
    ignores_range: bool = False
    content: bytes | None = None  # the file is this, with the hash of this
    n_seen: int = 0  # answers that this was asked about
    stalled: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)

    def hits(self, kind: str, file: str) -> bool:
        """Tell whether the next answer of a kind, about a file or "", goes wrong; count it."""
        if self.kind not in ("", kind) or not fnmatch(file, self.file):
            return False
        self.n_seen += 1
        last = float("inf") if self.times is None else self.after + self.times
        return self.after < self.n_seen <= last


@dataclass
class Repository:
    """A model repository: its files by name, where they are kept, and how it misbehaves."""

    files: dict[str, bytes]
    revision: str = "main"
    tags: dict[str, str] = field(default_factory=dict)  # name -> commit
    past: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> files, by `push`

    storage: str = ""  # large files are redirected to another host: by "lfs", or by "xet"
    url_answers: int | None = None  # there a URL expires after so many answers
    url_seconds: float = 3600  # and after so long
    redirects_small: bool = False  # small files, too, but to another path of this host
    token: str = ""  # private: all needs this token
    gated: bool = False  # no token gives files
    page_entries: int = 1000  # of the tree, in one answer

    faults: list[Fault] = field(default_factory=list)
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

    _counting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def commit(self) -> str:
        """A hash of the contents, as git would have it: other files, another commit."""
        return commit_of(self.files)

    def push(self, changes: Mapping[str, bytes | None]) -> str:
        """Commit files in place of others, or None for one that goes; return the commit.

        Earlier commits can still be asked for.
        """
        self.past[self.commit] = self.files
        new = {**self.files, **changes}
        self.files = {name: data for name, data in new.items() if data is not None}
        return self.commit

    def files_at(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch, tag or commit, if there is one of that name."""
        if revision in (self.revision, self.commit):
            return self.files
        commit = self.tags.get(revision, revision)
        return self.files if commit == self.commit else self.past.get(commit)

    def faults_of(self, kind: str, file: str) -> list[Fault]:
        """The faults that the next answer shows; each of its kind and file counts it."""
        simple = []
        if self.failing_status and (file or not self.failing_files):
            simple = [
                Fault(
                    status=self.failing_status, headers=self.failing_headers, body=self.failing_body
                )
            ]
        elif kind == "bytes" and file in self.cut_after_bytes:
            simple = [Fault(cut_after_bytes=self.cut_after_bytes[file])]
        with self._counting:
            return simple + [fault for fault in self.faults if fault.hits(kind, file)]


def commit_of(files: Mapping[str, bytes]) -> str:
    """A hash of all files and their names."""
    listing = sorted((name, content_hash(name, data)) for name, data in files.items())
    return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


def is_large(file: str) -> bool:
    """Tell whether the hub keeps a file in git's large file storage."""
    return file.endswith((".bin", ".safetensors"))


@lru_cache(maxsize=1000)
def content_hash(file: str, data: bytes) -> str:
    """The hash by which the hub names a file's content."""
    return hashlib.sha256(data).hexdigest() if is_large(file) else git_hash(data)


@lru_cache(maxsize=1000)
def git_hash(data: bytes) -> str:
    """The hash by which git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(file: str, data: bytes) -> bytes:
    """What git holds in place of a large file."""
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{content_hash(file, data)}\nsize {len(data)}\n"
    ).encode()


def xet_hash(file: str, data: bytes) -> str:
    """A hash as Xet's are: 64 digits that are no SHA-256 of the file."""
    return hashlib.sha256(b"xet" + content_hash(file, data).encode()).hexdigest()
