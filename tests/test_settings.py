"""The default model survives in settings.json, and a broken file is named, not guessed at."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_cli.models import settings
from codegen_cli.models.settings import Default
from quantize.files.errors import UserError


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    monkeypatch.setenv("CODEGEN_HOME", str(directory))
    return directory


def write_settings(home: Path, content: bytes) -> Path:
    home.mkdir()
    path = home / "settings.json"
    path.write_bytes(content)
    return path


def test_there_is_no_default_model_at_first(home: Path) -> None:
    assert settings.default_model() is None
    assert not home.exists()


def test_the_default_model_that_was_set_last_is_kept() -> None:
    settings.set_default_model("350M-mono")
    settings.set_default_model("modèle:int4")
    assert settings.default_model() == "modèle:int4"


def test_setting_the_default_model_keeps_other_settings(home: Path) -> None:
    path = write_settings(home, b'{"colour": [1, 2]}')
    settings.set_default_model("nano")
    assert json.loads(path.read_bytes()) == {"colour": [1, 2], "default_model": "nano"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"default_model": ', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'["nano"]', "does not hold a JSON object"),
        (b'{"default_model": 7}', "default_model is 7"),
        (b'{"default_model": ""}', "default_model is ''"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_settings_name_the_file_and_what_is_wrong(
    home: Path, content: bytes, found: str
) -> None:
    path = write_settings(home, content)
    with pytest.raises(UserError) as raised:
        settings.default_model()
    assert str(path) in raised.value.message
    assert found in raised.value.message
    assert "delete it" in raised.value.hint


def test_broken_settings_are_not_overwritten(home: Path) -> None:
    path = write_settings(home, b"{oops")
    with pytest.raises(UserError, match="not valid JSON"):
        settings.set_default_model("nano")
    assert path.read_bytes() == b"{oops"


def test_settings_that_are_a_directory_are_named(home: Path) -> None:
    path = home / "settings.json"
    path.mkdir(parents=True)
    with pytest.raises(UserError) as raised:
        settings.default_model()
    assert raised.value.message == f"cannot read {path}: {os.strerror(errno.EISDIR)}"


def test_codegen_home_that_is_a_file_has_no_settings_and_is_named_on_writing(home: Path) -> None:
    home.write_text("not a directory")
    assert settings.default_model() is None
    with pytest.raises(UserError) as writing:
        settings.set_default_model("nano")
    assert str(home) in writing.value.message


def test_only_the_first_of_several_first_defaults_is_kept() -> None:
    assert settings.set_first_default_model("nano")
    assert not settings.set_first_default_model("350M-mono")
    assert settings.default_model() == "nano"


def test_a_default_that_nobody_chose_is_told_from_one_that_the_user_did(home: Path) -> None:
    settings.set_first_default_model("tiny")
    assert settings.read_default() == Default("tiny", is_chosen=False)
    settings.set_default_model("tiny")
    assert settings.read_default() == Default("tiny")
    assert json.loads((home / "settings.json").read_bytes()) == {"default_model": "tiny"}


def test_a_default_written_by_hand_or_by_an_older_release_counts_as_chosen(home: Path) -> None:
    path = write_settings(home, b'{"default_model": "mine"}')
    assert settings.read_default() == Default("mine")
    path.write_text('{"default_model": "mine", "automatic_default": "tiny"}')
    assert settings.read_default() == Default("mine")
    settings.forget_default_model("mine")
    assert json.loads(path.read_bytes()) == {}


def test_a_path_that_is_no_text_can_be_the_default() -> None:
    settings.set_default_model("/caf\udce9.safetensors")
    assert settings.default_model() == "/caf\udce9.safetensors"


def test_a_default_is_forgotten_only_by_its_name(home: Path) -> None:
    write_settings(home, b'{"colour": [1, 2], "default_model": "nano"}')
    assert not settings.forget_default_model("350M-mono")
    assert settings.forget_default_model("nano")
    assert not settings.forget_default_model("nano")
    assert settings.default_model() is None
    assert json.loads((home / "settings.json").read_bytes()) == {"colour": [1, 2]}


def test_changes_by_several_processes_at_once_are_all_kept() -> None:
    n_processes, n_changes = 4, 25
    script = (
        "from codegen_cli.models.settings import Default, change_default\n"
        f"for _ in range({n_changes}):\n"
        "    change_default(lambda old: Default(str(int(old.model if old else 0) + 1)))\n"
    )
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command) for _ in range(n_processes)]
    assert [process.wait(timeout=60) for process in processes] == [0] * n_processes
    assert settings.default_model() == str(n_processes * n_changes)


def test_a_lock_that_is_never_given_back_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.set_default_model("nano")
    script = (
        "import sys\n"
        "from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    lock = home / "settings.json.lock"
    command = [sys.executable, "-c", script, str(lock)]
    monkeypatch.setattr(settings, "LOCK_SECONDS", 0.2)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError) as raised:
            settings.set_default_model("350M-mono")
        holder.stdin.close()
    assert str(lock) in raised.value.message
    assert raised.value.hint
    assert settings.default_model() == "nano"  # reading waits for nobody


def test_a_failed_write_keeps_the_old_settings_and_leaves_no_other_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.set_default_model("nano")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError) as raised:
        settings.set_default_model("350M-mono")
    path = home / "settings.json"
    assert raised.value.message == f"cannot write {path}: {os.strerror(errno.ENOSPC)}"
    assert "CODEGEN_HOME" in raised.value.hint
    assert settings.default_model() == "nano"
    assert sorted(home.iterdir()) == [path, home / "settings.json.lock"]
