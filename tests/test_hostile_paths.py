"""Paths that cannot be: absent where the text could be a name, else told what is wrong."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ordinary_user import as_ordinary_user

from codegen_cli.models import registry
from codegen_cli.models.registry import KnownModel, PackedModel
from quantize.files.errors import UserError
from quantize.quantize_model import quantize

pytestmark = pytest.mark.skipif(os.name == "nt", reason="errors as POSIX has them")


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, and an empty home."""
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def reason(number: int) -> str:
    return os.strerror(number)


# --- what could be a name -------------------------------------------------------------------------


@pytest.mark.parametrize("obstacle", ["a file", "a loop", "nothing"])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Salesforce/codegen-350M-mono", "350M-mono"),
        ("Salesforce/codegen-350M-mono:int4", "350M-mono"),
        ("Salesforce/anything", "Salesforce/anything"),
    ],
)
def test_a_repository_is_a_name_whatever_its_owner_is_called_after_here(
    work: Path, obstacle: str, text: str, name: str
) -> None:
    if obstacle == "a file":
        (work / "Salesforce").touch()
    elif obstacle == "a loop":
        (work / "Salesforce").symlink_to("Salesforce")
    for resolve in (registry.resolve, registry.resolve_source):
        found = resolve(text)
        assert isinstance(found, KnownModel)
        assert found.name == name


def test_a_known_name_is_known_whatever_lies_here(work: Path) -> None:
    (work / "350M-mono").symlink_to("350M-mono")
    (work / "nano").symlink_to("nano")
    assert isinstance(registry.resolve("350M-mono"), KnownModel)
    assert isinstance(registry.resolve("nano"), PackedModel)


@pytest.mark.parametrize("text", ["x" * 300, "x" * 5000, "no\0name", "loop"])
def test_a_text_that_can_be_no_file_is_an_unknown_name_and_shown_in_short(
    work: Path, text: str
) -> None:
    (work / "loop").symlink_to("loop")
    for resolve in (registry.resolve, registry.resolve_source):
        with pytest.raises(UserError, match="unknown model") as raised:
            resolve(text)
        assert len(raised.value.message) < 300


def test_a_repository_of_a_very_long_name_asks_the_hub() -> None:
    assert isinstance(registry.resolve(f"{'x' * 300}/{'y' * 300}"), KnownModel)


# --- what can only be a path ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("file/x.safetensors", errno.ENOTDIR),
        ("./file/x", errno.ENOTDIR),
        ("a/b/file/../c", errno.ENOENT),
        ("./loop", errno.ELOOP),
        ("loop.bin", errno.ELOOP),
        ("loop/x/y", errno.ELOOP),
        ("./" + "x" * 300, errno.ENAMETOOLONG),
        ("x" * 300 + ".safetensors", errno.ENAMETOOLONG),
        ("/" + "x/" * 3000, errno.ENAMETOOLONG),
    ],
)
def test_what_can_only_be_a_path_is_told_what_is_wrong_with_it(
    work: Path, text: str, number: int
) -> None:
    (work / "file").touch()
    (work / "loop").symlink_to("loop")
    (work / "loop.bin").symlink_to("loop.bin")
    told = "no such file" if number == errno.ENOENT else reason(number)
    for resolve in (registry.resolve, registry.resolve_source):
        with pytest.raises(UserError) as raised:
            resolve(text)
        assert told in raised.value.message
        assert len(raised.value.message) < 300


def test_a_path_with_a_nul_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read './a.x00b'"):
        registry.resolve("./a\0b")
    with pytest.raises(UserError, match="cannot read"):
        quantize("a\0b", tmp_path / "x.safetensors", "int8")


@pytest.mark.skipif(sys.platform != "linux", reason="rights of Linux")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Salesforce/codegen-2B-nl", " is not on this machine"),
        ("Salesforce/mine", " is not on this machine"),
        ("./Salesforce", f"cannot read Salesforce: {os.strerror(errno.EACCES)}"),
        ("./closed.bin", f"cannot read closed.bin: {os.strerror(errno.EACCES)}"),
    ],
)
def test_what_may_not_be_read_is_absent_as_a_name_and_told_as_a_path(
    work: Path, text: str, told: str
) -> None:
    (work / "Salesforce").mkdir(mode=0)
    (work / "closed.bin").touch(mode=0)
    for command in ("path", "default"):
        ran = subprocess.run(
            [sys.executable, "-m", "codegen_cli", "models", command, text],
            capture_output=True,
            text=True,
            preexec_fn=as_ordinary_user,
        )
        assert told in ran.stdout + ran.stderr, command
        assert "Traceback" not in ran.stderr


# --- each command that takes a path ---------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "{}"),
        ("embed", "--json", "{}"),
        ("complete", "--file", "{}"),
        ("complete", "-m", "{}", "x"),
        ("quantize", "{}"),
        ("models", "import", "{}"),
        ("models", "verify", "{}"),
        ("models", "show", "{}"),
        ("models", "path", "{}"),
        ("models", "default", "{}"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_every_command_names_the_path_and_the_reason(
    codegen, work: Path, arguments: tuple[str, ...]
) -> None:
    (work / "file").touch()
    (work / "loop.bin").symlink_to("loop.bin")
    for path, number in (("file/x.bin", errno.ENOTDIR), ("./loop.bin", errno.ELOOP)):
        result = codegen(*(each.format(path) for each in arguments))
        told = result.stderr.decode()
        assert result.returncode == 1, told
        assert told.startswith("error: ")
        assert path.removeprefix("./") in told
        assert reason(number) in told


@pytest.mark.parametrize("command", ["rm --yes", "path", "show", "default", "verify"])
def test_commands_that_take_a_name_take_a_very_long_one(codegen, command: str) -> None:
    for name in ("x" * 5000, "x/y" * 1000):
        result = codegen("models", *command.split(), name)
        assert result.returncode == 1
        assert result.stderr.startswith(b"error: ")
        assert b"Traceback" not in result.stderr
