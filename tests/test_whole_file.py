"""Files that appear whole or not at all, and what is known of those that nobody will finish."""

import subprocess
import sys
from pathlib import Path

import pytest

from quantize.files.errors import UserError
from quantize.files.whole_file import (
    abandoned_files,
    hold,
    partial_path,
    remove_abandoned,
    replacing,
    write_all,
)

WRITER = """\
import sys
from pathlib import Path
from quantize.files.whole_file import replacing, write_all

target = Path(sys.argv[1])
with replacing(target) as file:
    write_all(file, memoryview(b"half"), target)
    print("writing", flush=True)
    sys.stdin.read()
"""


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """What a writer of `model` left that was killed before it was done."""
    writer = start_writer(tmp_path / "model")
    writer.kill()
    writer.communicate()
    [name] = names_in(tmp_path)
    return tmp_path / name


def start_writer(target: Path) -> "subprocess.Popen[bytes]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], **pipes)
    assert writer.stdout.readline() == b"writing\n"
    return writer


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    with replacing(target) as file:
        write_all(file, memoryview(b"new and longer"), target)
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new and longer"
    assert names_in(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_writing_leaves_the_old_file_alone(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")

    def write_half():
        with replacing(target) as file:
            write_all(file, memoryview(b"half"), target)
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["model"]


def test_a_target_in_no_directory_is_named(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "model"
    with pytest.raises(UserError, match=r"cannot write .*missing/model: No such file") as caught:
        replacing(target).__enter__()
    assert caught.value.hint == "Create the directory first, or choose another place."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named() -> None:
    target = Path("/dev/full")
    with target.open("wb", buffering=0) as file, pytest.raises(UserError) as caught:
        write_all(file, memoryview(b"x"), target)
    assert caught.value.message == "cannot write /dev/full: No space left on device"
    assert caught.value.hint == "Free some space, or write to another disk."


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and locks")
def test_what_a_killed_writer_left_is_abandoned_and_can_go(tmp_path: Path, killed: Path) -> None:
    assert abandoned_files(tmp_path) == [killed]
    assert abandoned_files(tmp_path, "model") == [killed]
    assert abandoned_files(tmp_path, "other") == []
    assert remove_abandoned(killed)
    assert names_in(tmp_path) == []
    assert not remove_abandoned(killed)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_what_another_process_is_writing_is_not_abandoned(tmp_path: Path) -> None:
    writer = start_writer(tmp_path / "model")
    [name] = names_in(tmp_path)
    assert abandoned_files(tmp_path) == []
    assert not remove_abandoned(tmp_path / name)
    writer.communicate()
    assert names_in(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_a_file_with_two_holders_is_free_when_both_are_done(tmp_path: Path) -> None:
    partial = partial_path(tmp_path / "model")
    partial.write_bytes(b"x")
    with partial.open("rb") as one:
        hold(one)
        with partial.open("rb") as other:
            hold(other, waits=False)
        assert abandoned_files(tmp_path) == []
    assert abandoned_files(tmp_path) == [partial]


def test_only_our_own_unfinished_files_are_found(tmp_path: Path) -> None:
    for name in (
        ".model.part",
        ".model.0123456.part",
        "model.01234567.part",
        ".model.01234567.bak",
    ):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".model.01234567.part").mkdir()
    (tmp_path / ".model.89abcdef.part").symlink_to(tmp_path / ".model.part")
    assert abandoned_files(tmp_path) == []
    assert abandoned_files(tmp_path / "missing") == []
