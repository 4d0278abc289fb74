"""Every variable that the hub's client reads: taken, or refused by its name before the client."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import FILES, environment, run_codegen
from hub_server import HubServer, Repository

from codegen_cli.hub.network import settings as hub_settings
from quantize.files.errors import UserError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
    for name in os.environ:
        if name.lower() in names or name.startswith(("HF_", "HUGGING", "TQDM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path))


REFUSED = [
    ("HF_HUB_DOWNLOAD_TIMEOUT", "abc"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "-1"),
    ("HF_HUB_ETAG_TIMEOUT", "1.5"),
    ("HF_HUB_ETAG_TIMEOUT", "1e3"),
    ("HF_HUB_ETAG_TIMEOUT", "inf"),
    ("HF_HUB_ETAG_TIMEOUT", "9" * 5000),
    ("HF_ENDPOINT", "https://a b"),
    ("HF_ENDPOINT", " https://hub.example"),
    ("HF_ENDPOINT", "https://hub.example\n"),
    ("HF_ENDPOINT", "hub.example"),
    ("HF_ENDPOINT", "hub.example:443"),
    ("HF_ENDPOINT", "ftp://hub.example"),
    ("HF_ENDPOINT", "https://"),
    ("HF_ENDPOINT", "https:hub.example"),
    ("HF_ENDPOINT", "https://[::1"),
    ("HF_ENDPOINT", "https://hub.example:port"),
    ("HF_ENDPOINT", "https://hub.example:65536"),
    ("HF_ENDPOINT", f"https://{'a' * 64}.example"),
    ("HF_ENDPOINT", "https://ü..example"),
    ("HF_ENDPOINT", "https://hub.example/?a=b"),
    ("HF_ENDPOINT", "https://hub.example\udcff"),
    ("HF_TOKEN", "hf_äbc"),
    ("HF_TOKEN", "hf_a bc"),
    ("HF_TOKEN", "hf_a\x1bbc"),
    ("HF_TOKEN", "hf_\udcff"),
    ("HUGGING_FACE_HUB_TOKEN", "hf_äbc"),
    ("HF_TOKEN_PATH", "/"),
    ("HF_TOKEN_PATH", "/dev/null/token"),
    ("HF_HUB_USER_AGENT_ORIGIN", "ü"),
    ("HF_HUB_USER_AGENT_ORIGIN", "a\nb"),
    ("ALL_PROXY", "socks5://127.0.0.1:1080"),
    ("all_proxy", "socks5h://127.0.0.1:1080"),
    ("ALL_PROXY", "socks4://127.0.0.1:1080"),
    ("https_proxy", "ftp://proxy.example"),
    ("http_proxy", "foo:bar:baz"),
    ("HTTP_PROXY", "http://a b:1"),
    ("Http_Proxy", "http://[::1"),
    ("http_proxy", "http://"),
    ("http_proxy", ":3128"),
    ("HTTPS_PROXY", "proxy.example:99999"),
    ("SSL_CERT_FILE", "/nowhere"),
    ("SSL_CERT_FILE", "/"),
    ("SSL_CERT_FILE", __file__),
    ("SSL_CERT_DIR", "/nowhere"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_wrong_setting_is_one_error_that_names_it_and_its_cure(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    if "SOCKS" in value.upper():
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as raised:
        hub_settings.require_usable()
    named = value if name == "HF_TOKEN_PATH" else name
    assert named in raised.value.message
    assert raised.value.hint
    assert "\n" not in raised.value.message + raised.value.hint


TAKEN = [
    ("HF_HUB_DOWNLOAD_TIMEOUT", "60"),
    ("HF_HUB_ETAG_TIMEOUT", "0"),
    ("HF_ENDPOINT", "https://hub.example/"),
    ("HF_ENDPOINT", "http://127.0.0.1:8080/hub/"),
    ("HF_ENDPOINT", "https://name:word@hub.example"),
    ("HF_ENDPOINT", "https://hüb.example"),
    ("HF_ENDPOINT", "http://[::1]:8080"),
    ("HF_TOKEN", "hf_abc\n"),
    ("HF_TOKEN", " "),
    ("ALL_PROXY", "proxy.example"),
    ("https_proxy", "http://name:word@proxy.example:3128/"),
    ("http_proxy", ""),
    ("NO_PROXY", "[::1, a b, c:d:e, http://["),
    ("HF_HUB_USER_AGENT_ORIGIN", "a partner/1.0"),
    ("HF_HUB_DISABLE_SYMLINKS", "perhaps"),
]


@pytest.mark.parametrize(("name", "value"), TAKEN)
def test_a_right_setting_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    hub_settings.require_usable()


@pytest.mark.parametrize(
    "name",
    [
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_TOKEN_PATH",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "HF_HUB_ETAG_TIMEOUT",
        "XDG_CACHE_HOME",
    ],
)
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_variable_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    hub_settings.require_usable()
    assert name not in os.environ


def test_what_no_proxy_or_another_variable_overrides_is_not_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("NO_PROXY", "a.example, *")
    hub_settings.require_usable()
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("all_proxy", "http://proxy.example")  # small letters win, as in urllib
    hub_settings.require_usable()
    monkeypatch.setenv("HF_TOKEN", "hf_äbc")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")  # then it is not sent
    hub_settings.require_usable()


@pytest.mark.parametrize("content", [b"hf_\xc3\xa4bc", b"hf_\xff", b"hf a", b"\x89PNG\r\n\x1a\n\0"])
def test_a_token_file_is_named_and_its_content_is_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UserError) as raised:
        hub_settings.require_usable()
    assert str(tmp_path / "token") in raised.value.message
    assert "hf auth login" in raised.value.hint
    assert "hf_" not in raised.value.message
    (tmp_path / "token").write_bytes(b"hf_abc\r\n")
    hub_settings.require_usable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "hf_sécret"),
        ("http_proxy", "http://me:sécret@proxy.example:x"),
        ("http_proxy", "me:sécret@proxy.example:x"),
        ("HF_ENDPOINT", "https://me:sécret@hub.example:x"),
    ],
)
def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as raised:
        hub_settings.require_usable()
    assert "cret" not in raised.value.message + raised.value.hint


def test_without_a_home_hf_home_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a uid without an entry
    with pytest.raises(UserError, match="no home directory") as raised:
        hub_settings.require_usable()
    assert "HF_HOME" in raised.value.hint


# Each once through the real command and, where that is what fails, the real client.
HOSTILE = [
    ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, "ALL_PROXY"),
    ({"HF_TOKEN": "hf_äbc"}, "HF_TOKEN"),
    ({"HF_HUB_DOWNLOAD_TIMEOUT": "abc"}, "HF_HUB_DOWNLOAD_TIMEOUT"),
    ({"HF_HUB_ETAG_TIMEOUT": "abc"}, "HF_HUB_ETAG_TIMEOUT"),
    ({"http_proxy": "foo:bar:baz"}, "http_proxy"),
    ({"HF_ENDPOINT": "http://a b"}, "HF_ENDPOINT"),
    ({"HF_ENDPOINT": "", "HTTPS_PROXY": "http://127.0.0.1:9"}, "https://huggingface.co"),
    ({"HF_OIDC_RESOURCE": "owner/name"}, "HF_OIDC_RESOURCE"),
]
HARMLESS = [
    {"HF_HUB_ENABLE_HF_TRANSFER": "1"},
    {"HF_HUB_VERBOSITY": "loud", "TQDM_MININTERVAL": "often"},
    {"HF_HUB_ETAG_TIMEOUT": "1000000", "HF_HUB_DOWNLOAD_TIMEOUT": "1000000"},
    {"NO_PROXY": "[::1,a b,c:d:e"},
    {"HF_TOKEN": "hf_abc\n", "HF_HOME": "relative"},
]


@pytest.mark.parametrize(("changes", "named"), HOSTILE)
def test_the_command_names_what_is_wrong(
    tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    with HubServer({"someone/model": Repository(FILES)}) as hub:
        env = environment(hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path), **changes)
        ran = run_codegen(env, "download", "-q", "someone/model")
    assert (ran.returncode, ran.stdout) == (1, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert named in error + hint


@pytest.mark.parametrize("changes", HARMLESS)
def test_the_command_works_with_what_is_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with HubServer({"someone/model": Repository(FILES)}) as hub:
        env = environment(hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path), **changes)
        env["PYTHONPATH"] = str(Path(__file__).parent.parent)
        ran = run_codegen(env, "download", "-q", "someone/model")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_only_a_download_imports_the_client(tmp_path: Path) -> None:
    """A package of its name that cannot be imported stands for every setting it cannot bear."""
    (tmp_path / "huggingface_hub").mkdir()
    (tmp_path / "huggingface_hub" / "__init__.py").write_text("1 / 0\n")
    paths = f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"
    env = environment("", tmp_path, CODEGEN_HOME=str(tmp_path / "home"), PYTHONPATH=paths)
    script = "import codegen_cli, codegen_cli.measuring.checkup, codegen_cli.reports.doctor_report"
    subprocess.run([sys.executable, "-c", script], env=env, check=True)
    assert run_codegen(env, "models", "list", "--json").returncode == 0
    assert run_codegen(env, "models", "show", "350M-mono").returncode == 0
    for arguments in (
        ("quantize", "350M-mono"),
        ("complete", "-m", "350M-mono", "x"),
        ("score", "-m", "350M-mono", __file__),
        ("bench", "-m", "350M-mono"),
        ("models", "path", "350M-mono"),
        ("models", "verify", "350M-mono"),
    ):
        ran = run_codegen(env, *arguments)
        assert ran.returncode == 1
        assert "ZeroDivisionError" not in ran.stderr
        assert "350M-mono" in ran.stderr
    ran = run_codegen(env, "download", "350M-mono")
    assert "error: the hub's client cannot be imported: ZeroDivisionError" in ran.stderr
    assert ran.stdout == ""
