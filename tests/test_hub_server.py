"""The hub of the tests: the real client is content with it, and each fault is what it says."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hub_client import environment
from hub_server import Fault, HubServer, Repository, Request, content_hash

# One process for all that the client asks: it takes a second to import.
CLIENT = """
import json
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
path = hf_hub_download("someone/model", "pytorch_model.bin")
snapshot = snapshot_download("someone/model")
checked = HfApi().verify_repo_checksums("someone/model")
refs = HfApi().list_repo_refs("someone/model")
folder = [each.path for each in HfApi().list_repo_tree("someone/model", "a")]
print(json.dumps({
    "path": path, "snapshot": snapshot, "checked": checked.checked_count,
    "faults": [*checked.mismatches, *checked.missing_paths, *checked.extra_paths],
    "commits": [each.target_commit for each in refs.branches + refs.tags], "folder": folder,
}))
"""
OFFLINE = "from huggingface_hub import snapshot_download as f; print(f('someone/model'))"
VERIFY = ("-m", "huggingface_hub.cli.hf", "cache", "verify", "someone/model")
WEIGHTS = bytes(range(256)) * 1000
FILES = {
    "config.json": b"{}",
    "pytorch_model.bin": WEIGHTS,
    "a/1/model.safetensors": b"tensors",
    "a/1/notes.md": b"",
    "a/b.txt": b"b" * 70_000,
}
WEIGHTS_PATH = "/someone/model/resolve/main/pytorch_model.bin"
CONFIG_PATH = "/someone/model/resolve/main/config.json"
SHA256 = content_hash("pytorch_model.bin", WEIGHTS)


class Answer:
    """What a plain HTTP client got: what arrived of a body that was cut, too."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.is_cut = response.status, response.headers, False
        try:
            self.body = response.read()
        except http.client.IncompleteRead as error:
            self.body, self.is_cut = error.partial, True


def ask(url: str, path: str = "", method: str = "GET", **headers: str) -> Answer:
    """One request by a connection of its own; an underscore in a header's name is a hyphen."""
    parts = urlsplit(url + path)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request(method, target, headers=named)
    answer = Answer(connection.getresponse())
    connection.close()
    return answer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({"someone/model": Repository(dict(FILES))}) as server:
        yield server


@pytest.fixture
def repository(hub: HubServer) -> Repository:
    return hub.repositories["someone/model"]


def run_client(env: dict[str, str], *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("storage", ["", "lfs", "xet"])
def test_the_real_client_is_content(
    hub: HubServer, repository: Repository, tmp_path: Path, storage: str
) -> None:
    repository.storage, repository.redirects_small = storage, bool(storage)
    repository.token, repository.page_entries = "hf_secret", 2
    repository.tags["v1"] = repository.commit
    env = environment(hub.url, tmp_path, HF_TOKEN="hf_secret", HF_HUB_DISABLE_XET="1")
    told = json.loads(run_client(env, "-c", CLIENT))
    snapshot = Path(told["snapshot"])
    assert Path(told["path"]) == snapshot / "pytorch_model.bin"
    assert (told["checked"], told["faults"]) == (len(FILES), [])
    assert told["commits"] == [repository.commit] * 2
    assert told["folder"] == ["a/1", "a/b.txt"]
    assert {name: (snapshot / name).read_bytes() for name in FILES} == FILES
    blobs = {path.name for path in snapshot.parent.parent.joinpath("blobs").iterdir()}
    assert blobs == {content_hash(name, data) for name, data in FILES.items()}
    asked = hub.storage_requests()
    assert {each.file for each in asked} == (
        {"pytorch_model.bin", "a/1/model.safetensors"} if storage else set()
    )
    assert not any(each.authorization for each in asked)
    at_hub = [each for each in hub.requests if each not in asked and "someone" in each.path]
    assert all(each.authorization for each in at_hub)
    assert f"Verified {len(FILES)} file(s)" in run_client(env, *VERIFY)
    n_asked = len(hub.requests)
    offline = env | {"HF_HUB_OFFLINE": "1"}
    assert run_client(offline, "-c", OFFLINE).rstrip() == told["snapshot"]
    assert len(hub.requests) == n_asked


@pytest.mark.parametrize("storage", ["", "lfs"])
@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=1000-", 1000, 256_000),
        ("bytes=0-0", 0, 1),
        ("bytes=255990-999999", 255_990, 256_000),
        ("bytes=-7", 255_993, 256_000),
        ("bytes=-999999", 0, 256_000),
    ],
)
def test_a_range_is_answered(
    hub: HubServer, repository: Repository, storage: str, wanted: str, start: int, end: int
) -> None:
    repository.storage = storage
    url = hub.url + WEIGHTS_PATH
    if storage:
        url = ask(url, method="HEAD").headers["Location"]
    head, answer = ask(url, method="HEAD", Range=wanted), ask(url, Range=wanted)
    assert head.status == answer.status == 206
    assert answer.body == WEIGHTS[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/256000"
    assert head.headers["Content-Length"] == answer.headers["Content-Length"] == str(end - start)
    assert hub.fetched_bytes("pytorch_model.bin") == end - start
    request = hub.requests[-1]
    assert (request.method, request.range, request.kind) == ("GET", wanted, "bytes")


@pytest.mark.parametrize("wanted", ["bytes=256000-", "bytes=256000-256001", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused_with_the_size(hub: HubServer, wanted: str) -> None:
    answer = ask(hub.url, WEIGHTS_PATH, Range=wanted)
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */256000")


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=9-8", "bytes=-", "lines=1-2", "x"])
def test_what_is_no_single_range_is_ignored(hub: HubServer, wanted: str) -> None:
    answer = ask(hub.url, WEIGHTS_PATH, Range=wanted)
    assert (answer.status, answer.body) == (200, WEIGHTS)


def test_a_range_of_another_content_gives_the_whole_file(hub: HubServer) -> None:
    etag = ask(hub.url, WEIGHTS_PATH, "HEAD").headers["ETag"]
    assert etag == f'"{SHA256}"'
    same = ask(hub.url, WEIGHTS_PATH, Range="bytes=9-", If_Range=etag)
    other = ask(hub.url, WEIGHTS_PATH, Range="bytes=9-", If_Range='"other"')
    assert (same.status, other.status, other.body) == (206, 200, WEIGHTS)


def test_a_redirect_states_the_hash_and_leads_to_another_host(
    hub: HubServer, repository: Repository
) -> None:
    repository.storage = "xet"
    answer = ask(hub.url, WEIGHTS_PATH, Range="bytes=5-", Authorization="Bearer hf_secret")
    assert answer.status == 302
    assert answer.headers["X-Linked-ETag"] == f'"{SHA256}"'
    assert answer.headers["X-Linked-Size"] == "256000"
    assert answer.headers["X-Repo-Commit"] == repository.commit
    assert answer.headers["X-Xet-Hash"] not in ("", SHA256)
    assert 'rel="xet-auth"' in answer.headers["Link"]
    location = answer.headers["Location"]
    assert location.startswith(hub.storage_url)
    assert urlsplit(location).hostname != urlsplit(hub.url).hostname
    stored = ask(location)
    assert stored.body == WEIGHTS
    assert SHA256 not in stored.headers["ETag"]  # of storage: it says nothing of the content
    assert hub.fetched_files() == ["pytorch_model.bin"]


def test_a_url_expires_until_the_hub_is_asked_anew(hub: HubServer, repository: Repository) -> None:
    repository.storage, repository.url_answers = "lfs", 2
    first = ask(hub.url, WEIGHTS_PATH, "HEAD").headers["Location"]
    assert [ask(first).status for _ in range(3)] == [200, 200, 403]
    repository.url_answers, repository.url_seconds = None, -1
    second = ask(hub.url, WEIGHTS_PATH, "HEAD").headers["Location"]
    assert ask(second).status == 403
    assert ask(hub.storage_url, "/storage/unsigned").status == 403


def test_earlier_commits_can_still_be_asked_for(hub: HubServer, repository: Repository) -> None:
    old = repository.commit
    repository.tags["v1"] = old
    new = repository.push({"config.json": b"[]", "a/b.txt": None})
    assert new != old
    for revision, data in (("main", b"[]"), (new, b"[]"), (old, b"{}"), ("v1", b"{}")):
        answer = ask(hub.url, CONFIG_PATH.replace("main", revision))
        assert answer.body == data
        info = json.loads(ask(hub.url, f"/api/models/someone/model/revision/{revision}").body)
        assert answer.headers["X-Repo-Commit"] == info["sha"] == (old if data == b"{}" else new)
    assert ask(hub.url, CONFIG_PATH.replace("main", "v2")).headers["X-Error-Code"] == (
        "RevisionNotFound"
    )


def test_a_token_is_asked_for(hub: HubServer, repository: Repository) -> None:
    repository.token = "hf_secret"
    missing = ask(hub.url, CONFIG_PATH)
    assert (missing.status, missing.headers["X-Error-Code"]) == (401, "RepoNotFound")
    wrong = ask(hub.url, CONFIG_PATH, Authorization="Bearer hf_other")
    assert wrong.status == 401
    assert wrong.headers["X-Error-Message"] == "Invalid credentials in Authorization header"
    assert ask(hub.url, CONFIG_PATH, Authorization="Bearer hf_secret").status == 200


def test_a_gated_repository_gives_its_info_and_no_file(
    hub: HubServer, repository: Repository
) -> None:
    repository.gated = True
    assert ask(hub.url, "/api/models/someone/model").status == 200
    answers = ask(hub.url, CONFIG_PATH), ask(hub.url, CONFIG_PATH, Authorization="Bearer hf_x")
    assert [answer.status for answer in answers] == [401, 403]
    assert {answer.headers["X-Error-Code"] for answer in answers} == {"GatedRepo"}


def test_a_fault_is_of_its_kind_its_file_and_its_turn(
    hub: HubServer, repository: Repository
) -> None:
    headers = {"Retry-After": "7"}
    fault = Fault("pytorch_model.bin", after=1, times=2, status=503, headers=headers, body=b"busy")
    repository.faults = [fault]
    assert ask(hub.url, WEIGHTS_PATH, "HEAD").status == 200
    assert ask(hub.url, CONFIG_PATH).status == 200
    answers = [ask(hub.url, WEIGHTS_PATH) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 503, 503, 200]
    assert (answers[1].headers["Retry-After"], answers[1].body) == ("7", b"busy")
    assert fault.n_seen == 4
    repository.faults = [Fault(kind="api", status=429)]
    assert ask(hub.url, "/api/models/someone/model").status == 429
    assert ask(hub.url, WEIGHTS_PATH).status == 200
    repository.faults = [Fault(kind="", status=500)]
    paths = ("/api/models/someone/model", WEIGHTS_PATH)
    assert [ask(hub.url, path, method).status for path in paths for method in ("GET", "HEAD")] == (
        [500] * 4
    )


def test_a_loop_of_redirects(hub: HubServer, repository: Repository) -> None:
    repository.faults = [Fault(kind="", status=302, headers={"Location": CONFIG_PATH})]
    assert ask(hub.url, CONFIG_PATH).headers["Location"] == CONFIG_PATH


@pytest.mark.parametrize("storage", ["", "lfs"])
def test_a_cut_closes_the_connection(hub: HubServer, repository: Repository, storage: str) -> None:
    repository.storage = storage
    repository.faults = [Fault("*.bin", cut_after_bytes=1000, times=1)]
    url = hub.url + WEIGHTS_PATH
    if storage:
        url = ask(url).headers["Location"]
    answer = ask(url, Range="bytes=500-")
    assert (answer.is_cut, answer.body) == (True, WEIGHTS[500:1500])
    assert answer.headers["Content-Length"] == "255500"
    assert hub.fetched_bytes("pytorch_model.bin") == 1000
    assert ask(url).body == WEIGHTS


def test_a_stalled_answer_goes_on_when_it_is_told_to(
    hub: HubServer, repository: Repository
) -> None:
    stall = Fault(stall_after_bytes=100_000, times=1)
    repository.faults = [stall]
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(ask(hub.url, WEIGHTS_PATH)))
    thread.start()
    assert stall.stalled.wait(60)
    assert hub.fetched_bytes("pytorch_model.bin") == 100_000
    assert ask(hub.url, WEIGHTS_PATH).body == WEIGHTS  # another connection goes on
    assert answers == []
    stall.goes_on.set()
    thread.join()
    assert answers[0].body == WEIGHTS


def test_a_slow_answer_takes_its_time(hub: HubServer, repository: Repository) -> None:
    """A bound from below: time.sleep never returns early."""
    repository.faults = [Fault(bytes_per_second=1e6)]
    start = time.monotonic()
    assert ask(hub.url, WEIGHTS_PATH).body == WEIGHTS
    assert time.monotonic() - start >= 0.25


def test_ranges_can_be_ignored(hub: HubServer, repository: Repository) -> None:
    repository.faults = [Fault(ignores_range=True)]
    answer = ask(hub.url, WEIGHTS_PATH, Range="bytes=1000-")
    assert (answer.status, answer.body) == (200, WEIGHTS)


def test_headers_can_be_wrong_or_missing(hub: HubServer, repository: Repository) -> None:
    repository.faults = [Fault(headers={"Content-Length": "256001", "ETag": ""})]
    answer = ask(hub.url, WEIGHTS_PATH)
    assert (answer.is_cut, answer.body) == (True, WEIGHTS)
    assert "ETag" not in answer.headers
    repository.faults = [Fault(headers={"Content-Length": "1000"})]
    assert ask(hub.url, WEIGHTS_PATH).body == WEIGHTS[:1000]


def test_stated_sizes_are_those_of_info_tree_and_redirect(
    hub: HubServer, repository: Repository
) -> None:
    repository.storage, repository.stated_bytes = "lfs", {"pytorch_model.bin": 9}
    info, tree = (
        json.loads(ask(hub.url, f"/api/models/someone/model{route}").body)
        for route in ("?blobs=true", "/tree/main")
    )
    assert [each["size"] for each in info["siblings"] if each["rfilename"].endswith("bin")] == [9]
    assert [each["size"] for each in tree if each["path"].endswith("bin")] == [9]
    assert ask(hub.url, WEIGHTS_PATH, "HEAD").headers["X-Linked-Size"] == "9"


@pytest.mark.parametrize("storage", ["", "lfs"])
def test_a_file_can_change_from_some_answer_on(
    hub: HubServer, repository: Repository, storage: str
) -> None:
    repository.storage = storage
    repository.faults = [Fault("*.bin", kind="", after=2, content=b"new")]
    name = "X-Linked-ETag" if storage else "ETag"
    etags = [ask(hub.url, WEIGHTS_PATH, "HEAD").headers[name].strip('"') for _ in range(3)]
    assert etags == [SHA256, SHA256, content_hash("pytorch_model.bin", b"new")]


def test_requests_note_host_and_token(hub: HubServer) -> None:
    ask(hub.url, CONFIG_PATH + "?a=b", Authorization="Bearer hf_x", Range="bytes=1-")
    host = urlsplit(hub.url).netloc
    expected = Request(
        "GET", CONFIG_PATH, "bytes=1-", host, "Bearer hf_x", "bytes", "config.json", 206, 1
    )
    assert hub.requests == [expected]
