"""Files that appear whole or not at all, and what is known of those that nobody will finish."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantize.files.errors import UserError
from quantize.files.partial_file import (
    abandoned_files,
    partial_file,
    partial_link,
    remove_abandoned,
)
from quantize.files.whole_file import PRIVATE, SHARED, replace_files, replacing, write_all

WRITER = """\
import sys
from pathlib import Path
from quantize.files.whole_file import SHARED, replacing, write_all

target = Path(sys.argv[1])
with replacing(target, mode=SHARED) as file:
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
    with replacing(target, mode=SHARED) as file:
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
        with replacing(target, mode=SHARED) as file:
            write_all(file, memoryview(b"half"), target)
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["model"]


def test_a_target_in_no_directory_is_named(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "model"
    with pytest.raises(UserError, match=r"cannot write .*missing/model: No such file") as caught:
        replacing(target, mode=SHARED).__enter__()
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
    with partial_file(tmp_path / "model", SHARED) as (partial, one):
        with partial_link(tmp_path / "model", partial) as (link, _):
            one.close()
            assert abandoned_files(tmp_path) == []
            assert sorted([partial, link]) == sorted(tmp_path.iterdir())
        assert abandoned_files(tmp_path) == [partial]
    assert names_in(tmp_path) == []


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


@pytest.mark.skipif(sys.platform == "win32", reason="modes as POSIX has them")
@pytest.mark.parametrize(("mode", "found"), [(PRIVATE, 0o600), (SHARED, 0o640)])
def test_a_new_file_has_the_mode_asked_for_whatever_the_old_one_had(
    tmp_path: Path, mode: int, found: int
) -> None:
    targets = [tmp_path / "streamed", tmp_path / "at once"]
    for target in targets:
        target.write_bytes(b"old")
        target.chmod(0o644)
    umask = os.umask(0o027)
    try:
        with replacing(targets[0], mode=mode) as file:
            write_all(file, memoryview(b"new"), targets[0])
        replace_files({targets[1]: b"new"}, mode=mode)
    finally:
        os.umask(umask)
    assert [target.read_bytes() for target in targets] == [b"new"] * 2
    assert [target.stat().st_mode & 0o777 for target in targets] == [found] * 2


def test_several_files_are_replaced_once_all_are_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"old")
    files = {tmp_path / "one": b"1", tmp_path / "missing" / "two": b"2"}
    with pytest.raises(FileNotFoundError):
        replace_files(files, mode=SHARED)
    assert (tmp_path / "one").read_bytes() == b"old"
    assert names_in(tmp_path) == ["one"]
    (tmp_path / "missing").mkdir()
    replace_files(files, mode=SHARED)
    assert {path: path.read_bytes() for path in files} == files
    assert names_in(tmp_path / "missing") == ["two"]
