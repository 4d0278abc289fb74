"""A hub that refuses or answers nonsense, met by the real client: one message and its cure."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hub_client import DOWNLOAD, FILES, ask, environment
from hub_server import Fault, HubServer, Repository


def answering(info: bytes) -> Repository:
    return Repository(FILES, info=info)


def failing(status: int, *, body: bytes = b"", **headers: str) -> Repository:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Repository(FILES, failing_status=status, failing_headers=named, failing_body=body)


def failing_files(status: int, **headers: str) -> Repository:
    repository = failing(status, **headers)
    repository.failing_files = True
    return repository


NO_HUB = ("does not answer as a hub does", "HF_ENDPOINT")
AGAIN = "Run the same command again"
CASES = {
    "list": (answering(b"[]"), *NO_HUB),
    "object": (answering(b"{}"), *NO_HUB),
    "null": (answering(b"null"), *NO_HUB),
    "number": (answering(b"7"), *NO_HUB),
    "text": (answering(b'"sha"'), *NO_HUB),
    "nothing": (answering(b""), *NO_HUB),
    "half": (answering(b'{"id": "someone/half", "sha": "0123'), *NO_HUB),
    "no-utf8": (answering(b'{"id": "\xff"}'), *NO_HUB),
    "deep": (answering(b"[" * 100_000), *NO_HUB),
    "html": (answering(b"<!DOCTYPE html><html>Log in</html>"), *NO_HUB),
    "no-commit": (answering(b'{"id": "a/b", "siblings": []}'), *NO_HUB),
    "path-commit": (answering(b'{"id": "a/b", "sha": "../..", "siblings": []}'), *NO_HUB),
    "no-files": (answering(b'{"id": "a/b", "sha": "0123456"}'), *NO_HUB),
    "odd-files": (answering(b'{"id": "a/b", "sha": "0123456", "siblings": [1]}'), *NO_HUB),
    "odd-name": (
        answering(b'{"id": "a/b", "sha": "0123456", "siblings": [{"rfilename": [1]}]}'),
        *NO_HUB,
    ),
    "odd-size": (
        answering(
            b'{"id": "a/b", "sha": "0123456", "siblings": [{"rfilename": "a", "size": "b"}]}'
        ),
        *NO_HUB,
    ),
    "odd-date": (answering(b'{"id": "a/b", "lastModified": "soon"}'), *NO_HUB),
    "401": (failing(401), "answered 401", "HF_TOKEN"),
    "401-token": (
        failing(401, X_Error_Message="Invalid credentials in Authorization header"),
        "answered 401",
        "HF_TOKEN",
    ),
    "403": (failing(403), "answered 403", "HF_TOKEN"),
    "404": (failing(404), "answered 404", "HF_ENDPOINT"),
    "404-html": (
        failing(404, body=b"<html>", Content_Type="text/html"),
        "answered 404",
        "spelling",
    ),
    "407": (failing(407), "answered 407", "The proxy wants a password"),
    "408": (failing(408), "answered 408", AGAIN),
    "410": (failing(410), "answered 410", "HF_ENDPOINT"),
    "418": (failing(418), "answered 418", "HF_ENDPOINT"),
    "429": (failing(429), "answered 429", "Wait a few minutes, then run the same command again"),
    "429-after": (failing(429, Retry_After="17"), "answered 429", "Wait 17 s, then"),
    "429-date": (
        failing(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
        "answered 429",
        "Wait until Wed, 21 Oct 2026 07:28:00 GMT, then",
    ),
    "429-limit": (failing(429, RateLimit='"api";r=0;t=55'), "answered 429", "Wait 55 s, then"),
    "451": (failing(451), "answered 451", "HF_ENDPOINT"),
    "500": (failing(500), "answered 500", "The hub has trouble"),
    "500-list": (failing(500, body=b"[1]"), "answered 500", "The hub has trouble"),
    "500-half": (failing(500, body=b'{"error": '), "answered 500", "The hub has trouble"),
    "500-bytes": (failing(500, body=b"\xff\xfe"), "answered 500", "The hub has trouble"),
    "502": (failing(502), "answered 502", "The hub has trouble"),
    "503": (failing(503), "answered 503", AGAIN),
    "599": (failing(599), "answered 599", AGAIN),
    "disabled": (
        failing(403, X_Error_Message="Access to this resource is disabled."),
        "has disabled someone/disabled",
        "",
    ),
    "loop": (
        failing(302, Location="/api/models/someone/loop/revision/main"),
        "redirects without end",
        "HF_ENDPOINT",
    ),
    "nowhere": (failing(302, Location="http://[::1"), "", "HF_ENDPOINT"),
    "no-location": (failing(302), *NO_HUB),
    "no-content": (failing(204), *NO_HUB),
    "file-401": (failing_files(401), "answered 401", "HF_TOKEN"),
    "file-403": (failing_files(403), "answered 403", "HF_TOKEN"),
    "file-429": (failing_files(429, Retry_After="3"), "answered 429", "Wait 3 s"),
    "file-500": (failing_files(500), "answered 500", AGAIN),
    "file-loop": (
        failing_files(302, Location="/someone/file-loop/resolve/main/config.json"),
        "redirects without end",
        "HF_ENDPOINT",
    ),
    "file-nothing": (failing_files(200), *NO_HUB),
    "file-cut": (
        Repository(FILES, faults=[Fault("config.json", cut_after_bytes=0)]),
        "failed: ",
        "Check the network",
    ),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is told of each hub, all asked in one process."""
    with HubServer({f"someone/{name}": case[0] for name, case in CASES.items()}) as hub:
        env = environment(hub.url, tmp_path_factory.mktemp("hf"))
        calls = [("download", f"someone/{name}", "main") for name in CASES]
        return dict(zip(CASES, ask(env, *calls), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_is_one_message_with_its_cure(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    _, message, hint = CASES[name]
    answer = answers[name]
    assert message in answer["message"]
    assert hint in answer["hint"]
    assert "\n" not in answer["message"] + answer["hint"]


@pytest.mark.parametrize("name", ["401", "403", "404", "407", "429", "418", "loop", "list"])
def test_what_another_try_does_not_cure_is_not_said_to_be_tried_at_once(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    assert not answers[name]["hint"].startswith("Run the same command")


def test_that_the_hub_wants_a_wait_is_told(answers: dict[str, dict[str, Any]]) -> None:
    assert "codegen: the hub asks to wait 3 s\n" in answers["file-429"]["stderr"]
    assert "Traceback" not in answers["file-429"]["stderr"]


def test_the_token_that_is_refused_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_abc")
    with HubServer({"someone/model": failing(401)}) as hub:
        env = environment(hub.url, tmp_path)
        [from_file] = ask(env, DOWNLOAD)
        [from_variable] = ask(env | {"HF_TOKEN": "hf_abc"}, DOWNLOAD)
    assert f"another token than the one in {tmp_path / 'token'}" in from_file["hint"]
    assert "another token than the one in HF_TOKEN" in from_variable["hint"]


def test_a_proxy_that_does_not_connect_is_named(tmp_path: Path) -> None:
    with HubServer({}) as proxy:  # answers every request, and so the CONNECT, with an error
        env = environment("https://hub.invalid", tmp_path, https_proxy=proxy.url, NO_PROXY="")
        [answer] = ask(env, DOWNLOAD)
    assert "the proxy did not connect to https://hub.invalid" in answer["message"]
    assert "https_proxy" in answer["hint"]


def test_a_proxy_that_is_not_there_is_named(tmp_path: Path) -> None:
    with HubServer({}) as hub:
        closed = hub.url
    env = environment("http://hub.invalid", tmp_path, http_proxy=closed, NO_PROXY="")
    [answer] = ask(env, DOWNLOAD)
    assert answer["message"].startswith("the connection to http://hub.invalid failed: ")
    assert "http_proxy" in answer["hint"]


def test_a_hub_that_never_answers_names_the_timeouts(tmp_path: Path) -> None:
    script = (
        "from codegen_cli.hub.network import client as hub_client\n"
        "from codegen_cli.hub.entries import ModelEntry\n"
        "from quantize.files.errors import UserError\n"
        "hub_client.ANSWER_SECONDS = 0.2\n"
        "try:\n"
        "    hub_client.read_repository(ModelEntry('a/b', repository='a/b'))\n"
        "except UserError as error:\n"
        "    print(error.message, error.hint)\n"
    )
    with HubServer({}) as hub:
        hub.before_answer = lambda path: time.sleep(3)
        env = environment(hub.url, tmp_path)
        ran = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        )
    assert f"{hub.url} did not answer in time" in ran.stdout
    assert "HF_HUB_ETAG_TIMEOUT" in ran.stdout


def test_a_client_that_cannot_be_set_up_names_proxies_and_certificates(tmp_path: Path) -> None:
    script = (
        "from codegen_cli.hub.network import client as hub_client\n"
        "from codegen_cli.hub.entries import ModelEntry\n"
        "from quantize.files.errors import UserError\n"
        "def fail(): raise ImportError('a package is missing')\n"
        "hub_client.get_session = fail\n"
        "try:\n"
        "    hub_client.read_repository(ModelEntry('a/b', repository='a/b'))\n"
        "except UserError as error:\n"
        "    print(error.message, error.hint)\n"
    )
    env = environment("http://hub.invalid", tmp_path, SSLKEYLOGFILE="/nowhere/keys")
    ran = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert "cannot make connections: a package is missing" in ran.stdout
    assert "SSLKEYLOGFILE" in ran.stdout
