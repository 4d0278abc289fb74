"""What is asked of a repository -> the answer of the Hugging Face hub: status, headers, body.

As its API (info, tree, refs) and its file routes answered huggingface_hub 1.18 to 2.4.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from hub_repository import Repository, content_hash, git_hash, is_large, pointer, xet_hash


@dataclass
class Answer:
    """A status, headers and a body, whose length is stated unless the headers do."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""


@dataclass(frozen=True)
class Content:
    """A file's bytes as they are sent, and the name of that content, to which ranges refer."""

    data: bytes
    etag: str


def json_answer(value: object) -> Answer:
    """An answer of the API."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(HTTPStatus.OK, headers, json.dumps(value).encode())


def refusal(status: int, code: str, message: str, commit: str = "") -> Answer:
    """A refusal, as the hub says it in headers and in JSON."""
    headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
    given = {name: value for name, value in headers.items() if value}
    return Answer(status, given, json.dumps({"error": message}).encode())


def expired() -> Answer:
    """What storage says of a URL whose time is over."""
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    return Answer(HTTPStatus.FORBIDDEN, {"Content-Type": "application/xml"}, body)


def access_refusal(repository: Repository, name: str, token: str, kind: str) -> Answer | None:
    """The refusal of one who may not have this, or None."""
    if repository.token and token != repository.token:
        if token:
            return refusal(401, "", "Invalid credentials in Authorization header")
        return refusal(401, "RepoNotFound", "Repository not found")
    if repository.gated and kind != "api":
        return refusal(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
    return None


def info(repository: Repository, name: str, files: Mapping[str, bytes], commit: str) -> Answer:
    """The model's info with the files' metadata (blobs=true)."""
    if repository.info is not None:
        return Answer(HTTPStatus.OK, {"Content-Type": "application/json"}, repository.info)
    sizes = {file: len(data) for file, data in files.items()} | repository.stated_bytes
    siblings = [
        {"rfilename": file, "size": size, **_info_hash(repository, file, files[file])}
        for file, size in sizes.items()
    ]
    stated = {"private": bool(repository.token), "gated": "manual" if repository.gated else False}
    return json_answer({"id": name, "modelId": name, "sha": commit, **stated, "siblings": siblings})


def _info_hash(repository: Repository, file: str, data: bytes) -> dict[str, object]:
    """What the info says of a file's hash; the hash in git is that of a pointer if it is large."""
    if not repository.states_hashes:
        return {}
    if not is_large(file):
        return {"blobId": git_hash(data)}
    held = pointer(file, data)
    lfs = {"sha256": content_hash(file, data), "size": len(data), "pointerSize": len(held)}
    return {"blobId": git_hash(held), "lfs": lfs}


def refs(repository: Repository) -> Answer:
    """Branches and tags."""
    branch = repository.revision
    branches = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": repository.commit}]
    tags = [
        {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit}
        for tag, commit in repository.tags.items()
    ]
    return json_answer({"branches": branches, "converts": [], "tags": tags})


def tree(
    repository: Repository, files: Mapping[str, bytes], folder: str, query: Mapping[str, str]
) -> tuple[Answer, int | None]:
    """A page of a folder's files and folders, and where the next page begins, if there is one."""
    recursive = query.get("recursive", "").lower() == "true"
    entries = list(_entries(repository, files, folder, recursive))
    if folder and not entries:
        return refusal(404, "EntryNotFound", f"{folder} does not exist"), None
    start = int(query.get("cursor", 0))
    end = start + min(repository.page_entries, int(query.get("limit", 1000)))
    return json_answer(entries[start:end]), end if end < len(entries) else None


def _entries(
    repository: Repository, files: Mapping[str, bytes], folder: str, recursive: bool
) -> Iterator[dict[str, object]]:
    folders = set()
    for file, data in files.items():
        if folder and not file.startswith(f"{folder}/"):
            continue
        *inner, _ = file.removeprefix(f"{folder}/" if folder else "").split("/")
        for depth in range(1, (len(inner) if recursive else min(1, len(inner))) + 1):
            path = "/".join([*([folder] if folder else []), *inner[:depth]])
            if path not in folders:
                folders.add(path)
                oid = git_hash(path.encode())
                yield {"type": "directory", "oid": oid, "size": 0, "path": path}
        if recursive or not inner:
            yield _entry(repository, file, data)


def _entry(repository: Repository, file: str, data: bytes) -> dict[str, object]:
    size = repository.stated_bytes.get(file, len(data))
    if not is_large(file):
        return {"type": "file", "oid": git_hash(data), "size": size, "path": file}
    held = pointer(file, data)
    lfs = {"oid": content_hash(file, data), "size": size, "pointerSize": len(held)}
    xet = {"xetHash": xet_hash(file, data)} if repository.storage == "xet" else {}
    return {"type": "file", "oid": git_hash(held), "size": size, "path": file, "lfs": lfs, **xet}


def large_file_redirect(
    repository: Repository, file: str, data: bytes, location: str, token_url: str
) -> Answer:
    """The redirect to where a large file's bytes are, which states its size and SHA-256.

    Of a Xet repository it says how that protocol reads the file, too: by a token of `token_url`.
    """
    headers = {
        "Location": location,
        "X-Linked-Size": str(repository.stated_bytes.get(file, len(data))),
        "X-Linked-ETag": f'"{repository.etags.get(file) or content_hash(file, data)}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "text/plain; charset=utf-8",
    }
    if repository.storage == "xet":
        host = location.partition("/storage/")[0]
        xet = xet_hash(file, data)
        headers["X-Xet-Hash"] = xet
        headers["Link"] = (
            f'<{token_url}>; rel="xet-auth", '
            f'<{host}/v1/reconstructions/{xet}>; rel="xet-reconstruction-info"'
        )
    return Answer(HTTPStatus.FOUND, headers, f"Found. Redirecting to {location}".encode())


def file_bytes(content: Content, wanted: str, if_range: str) -> Answer:
    """A file's bytes, or those of one range (RFC 9110, 14); what is no single range is ignored."""
    data, size = memoryview(content.data), len(content.data)
    headers = {
        "ETag": content.etag,
        "Accept-Ranges": "bytes",
        "Content-Type": "binary/octet-stream",
    }
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    if not found or found[0] == "bytes=-" or if_range not in ("", content.etag):
        return Answer(HTTPStatus.OK, headers, data)
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return Answer(HTTPStatus.OK, headers, data)
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        headers = {"Content-Range": f"bytes */{size}"}
        return Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Answer(HTTPStatus.PARTIAL_CONTENT, headers, data[start:end])
