"""Packing that was ended goes on where it was, and ends with the bytes that it would have had."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from packed import flip_bit

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.models.packing import pack
from quantize.files.errors import UserError
from quantize.files.partial_file import abandoned_files, partial_path
from quantize.packed import journal
from quantize.quantize_model import QuantizeSummary, TensorReport, quantize

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks as POSIX has")

CONFIG = small_config(n_embd=40, vocab_size=97)
TENSORS = random_tensors(CONFIG, 11)

RUN = """\
import os, signal, sys
from quantize.quantize_model import quantize

def stop(report):
    if report.index == int(sys.argv[4]):
        {stop}

quantize(*sys.argv[1:4], on_tensor=stop)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
PAUSE = "print('paused', flush=True); sys.stdin.read()"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source" / "model", CONFIG, TENSORS)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "packed").mkdir()
    return tmp_path / "packed" / "model"


def begin(stop: str, checkpoint: Path, target: Path, index: int) -> "subprocess.Popen[bytes]":
    """A process that packs to int8 and stops in that way once the index-th tensor is done."""
    arguments = [str(checkpoint), str(target), "int8", str(index)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", RUN.format(stop=stop), *arguments], **pipes)


def killed(checkpoint: Path, target: Path, index: int = 12) -> Path:
    """What a process left that was killed once the index-th tensor was done."""
    with begin(KILL, checkpoint, target, index) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    [part] = abandoned_files(target.parent, target.name)
    return part


def whole(checkpoint: Path, target: Path) -> bytes:
    """What is packed without an interruption."""
    quantize(checkpoint, target.with_name("whole"), "int8")
    content = target.with_name("whole").read_bytes()
    target.with_name("whole").unlink()
    return content


class Told:
    """What `quantize` tells: unfinished files, and tensors that were packed before."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, Path, int]] = []
        self.kept: list[str] = []

    def quantize(self, source: Path, target: Path, **options: str) -> QuantizeSummary:
        options = {"format": "int8", **options}
        on_part = lambda *part: self.parts.append(part)  # noqa: E731
        return quantize(source, target, **options, on_part=on_part, on_tensor=self.on_tensor)

    def on_tensor(self, report: TensorReport) -> None:
        if report.is_kept:
            assert report.index == len(self.kept) + 1
            self.kept.append(report.name)


@pytest.mark.parametrize("index", [1, 2, 13, 21])
def test_a_killed_run_is_gone_on_with_at_its_tensor(
    checkpoint: Path, target: Path, index: int
) -> None:
    part, told = killed(checkpoint, target, index), Told()
    size = part.stat().st_size
    summary = told.quantize(checkpoint, target)
    assert told.parts == [("adopted", part, size)]
    assert len(told.kept) in (index - 1, index)  # the last is written while its report is made
    assert target.read_bytes() == whole(checkpoint, target)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    reports: list[TensorReport] = []
    quantize(checkpoint, target, "int8", on_tensor=reports.append)
    worst = max(reports, key=lambda report: report.relative_error)
    assert summary.worst is not None
    assert (summary.worst.name, summary.worst.relative_error) == (worst.name, worst.relative_error)


def touch(checkpoint: Path) -> dict[str, str]:
    status = (checkpoint / "model.safetensors").stat()
    times = status.st_atime_ns, status.st_mtime_ns + 1
    os.utime(checkpoint / "model.safetensors", ns=times)
    return {}


def grow(checkpoint: Path) -> dict[str, str]:
    write_checkpoint(checkpoint, CONFIG, TENSORS, dtype="f32")
    return {}


@pytest.mark.parametrize(
    "change", [touch, grow, lambda _: {"format": "f16"}, lambda _: {"name": "another"}]
)
def test_what_is_of_something_else_is_removed(
    checkpoint: Path, target: Path, change: Callable[[Path], dict[str, str]]
) -> None:
    part, told = killed(checkpoint, target), Told()
    size, options = part.stat().st_size, change(checkpoint)
    told.quantize(checkpoint, target, **options)
    assert told.parts == [("removed", part, size)]
    assert told.kept == []
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_another_version_of_the_quantizer_does_not_go_on(
    checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(checkpoint, target)
    told = Told()
    monkeypatch.setattr("quantize.quantize_model._QUANTIZER_VERSION", 2)
    told.quantize(checkpoint, target)
    assert [what for what, *_ in told.parts] == ["removed"]


def test_what_is_of_another_target_stays(checkpoint: Path, target: Path) -> None:
    part, told = killed(checkpoint, target), Told()
    told.quantize(checkpoint, target.with_name("another"))
    assert told.parts == []
    assert part.exists()


# --- what a part may hold -------------------------------------------------------------------------


def cut(part: Path) -> None:
    os.truncate(part, part.stat().st_size - 5000)


def damage(part: Path) -> None:
    flip_bit(part, -5000)


def scribble(part: Path) -> None:
    with part.open("rb+") as file:
        file.seek(journal.journal_bytes(5))
        file.write(b"\xff" * 96)


def claim_an_endless_error(part: Path) -> None:
    with part.open("rb+") as file:
        file.seek(journal.journal_bytes(5) + 65)
        file.write(b"1e999" + b" " * 20)


def grow_long(part: Path) -> None:
    os.truncate(part, 1 << 30)  # a hole


@pytest.mark.parametrize("change", [cut, damage, scribble, claim_an_endless_error, grow_long])
def test_what_is_not_as_it_was_written_is_packed_again(
    checkpoint: Path, target: Path, change: Callable[[Path], None]
) -> None:
    part, told = killed(checkpoint, target), Told()
    change(part)
    told.quantize(checkpoint, target)
    assert [what for what, *_ in told.parts] == ["adopted"]
    assert (len(told.kept) < 11) == (change is not grow_long)
    assert len(told.kept) >= 5
    assert target.read_bytes() == whole(checkpoint, target)


@pytest.mark.parametrize("content", [b"", b"codegen-unfinished 1 ", b"\0" * 200, os.urandom(5000)])
def test_a_part_without_a_journal_is_removed(
    checkpoint: Path, target: Path, content: bytes
) -> None:
    partial_path(target).write_bytes(content)
    told = Told()
    told.quantize(checkpoint, target)
    assert [what for what, *_ in told.parts] == ["removed"]
    assert target.read_bytes() == whole(checkpoint, target)


def test_a_part_that_is_another_files_name_too_is_not_written_to(
    checkpoint: Path, target: Path, tmp_path: Path
) -> None:
    part = killed(checkpoint, target)
    os.link(part, tmp_path / "precious")
    content, told = part.read_bytes(), Told()
    told.quantize(checkpoint, target)
    assert told.kept == []
    assert (tmp_path / "precious").read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [target.name]


# --- two at once ----------------------------------------------------------------------------------


@contextmanager
def paused(checkpoint: Path, target: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that packs and waits after its third tensor until its stdin ends."""
    with begin(PAUSE, checkpoint, target, 3) as process:
        assert process.stdout.readline() == b"paused\n"
        yield process


@pytest.mark.parametrize("is_adopter", [False, True])
def test_of_two_one_works_and_the_other_finds_it_done(
    checkpoint: Path, target: Path, is_adopter: bool
) -> None:
    expected = whole(checkpoint, target)
    if is_adopter:
        killed(checkpoint, target, 2)
    parts: list[str] = []
    with paused(checkpoint, target) as other:
        [part] = target.parent.iterdir()
        summary = quantize(
            checkpoint,
            target,
            "int8",
            on_part=lambda what, path, n_bytes: parts.append(f"{what} {path}"),
            on_wait=lambda: other.stdin.closed or other.stdin.close(),
            on_tensor=lambda report: pytest.fail("it was packed twice"),
        )
        other.wait(timeout=60)
    assert parts == [f"awaited {part}"]
    assert summary.worst is None
    assert summary.bytes == len(expected)
    assert target.read_bytes() == expected
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_whoever_waited_goes_on_when_the_other_is_killed(checkpoint: Path, target: Path) -> None:
    parts: list[str] = []
    with paused(checkpoint, target) as other:
        summary = quantize(
            checkpoint,
            target,
            "int8",
            on_part=lambda what, path, n_bytes: parts.append(what),
            on_wait=other.kill,
        )
    assert parts == ["awaited", "adopted"]
    assert summary.worst is not None
    assert target.read_bytes() == whole(checkpoint, target)


def test_what_another_packs_to_the_same_file_is_not_taken(checkpoint: Path, target: Path) -> None:
    with paused(checkpoint, target) as other:
        summary = quantize(checkpoint, target, "f16", on_wait=other.stdin.close)
        other.wait(timeout=60)
    assert summary.worst is not None
    quantize(checkpoint, target.with_name("f16"), "f16")
    assert target.read_bytes() == target.with_name("f16").read_bytes()


# --- interruptions --------------------------------------------------------------------------------


def test_what_interrupts_leaves_what_is_packed(checkpoint: Path, target: Path) -> None:
    parts: list[str] = []

    def interrupt(report: TensorReport) -> None:
        if report.index == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(
            checkpoint,
            target,
            "int8",
            on_tensor=interrupt,
            on_part=lambda what, path, n_bytes: parts.append(f"{what} {path}"),
        )
    [part] = abandoned_files(target.parent)
    assert parts == [f"kept {part}"]
    told = Told()
    told.quantize(checkpoint, target)
    assert len(told.kept) == 4
    assert target.read_bytes() == whole(checkpoint, target)


def test_a_deadline_leaves_what_is_packed(checkpoint: Path, target: Path) -> None:
    with pytest.raises(TimeUp):
        pack(checkpoint, "model", "int8", target, deadline=0.0)
    assert len(abandoned_files(target.parent)) == 1
    told = Told()
    told.quantize(checkpoint, target, name="model")
    assert len(told.kept) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_what_it_keeps_and_goes_on(tmp_path: Path, number: int) -> None:
    # It tells of more matrices than a pipe holds, and so waits for whoever reads of them.
    config = small_config(n_embd=16, rotary_dim=4, n_layer=400)
    source = write_checkpoint(tmp_path / "many", config, random_tensors(config, 1))
    target = tmp_path / "packed"
    command = [sys.executable, "-m", "codegen_cli", "quantize", "-v", str(source)]
    with subprocess.Popen([*command, "-o", str(target)], stderr=subprocess.PIPE) as process:
        while b"[ 28/" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 128 + number
    [part] = abandoned_files(tmp_path)
    kept = f"codegen: kept {part}, "
    assert kept in said
    assert said.splitlines()[-1].endswith(": the same command goes on with it")
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, check=True)
    assert f"codegen: going on with {part}, " in done.stderr.decode()
    quantize(source, tmp_path / "whole", "int8", name="many")
    assert target.read_bytes() == (tmp_path / "whole").read_bytes()


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of so many bytes, in pages of 4096."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = []

    def mount(n_bytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(directory)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a disk")
        mounted.append(directory)
        return directory

    yield mount
    for each in mounted:
        subprocess.run(["umount", str(each)], check=True)


def test_the_packed_size_is_all_the_disk_that_it_needs(
    checkpoint: Path, target: Path, small_disk: Callable[[int], Path]
) -> None:
    if shutil.which("mount") is None:
        pytest.skip("no mount")
    expected = whole(checkpoint, target)
    directory = small_disk(-(-len(expected) // 4096) * 4096)
    killed(checkpoint, directory / "model")  # what it left is not needed a second time
    quantize(checkpoint, directory / "model", "int8")
    assert (directory / "model").read_bytes() == expected
    (directory / "model").unlink()
    (directory / "other").write_bytes(bytes(4096))
    with pytest.raises(UserError, match="its disk has"):
        quantize(checkpoint, directory / "model", "int8")
    assert [path.name for path in directory.iterdir()] == ["other"]


def test_a_disk_that_others_fill_meanwhile_is_one_error(
    checkpoint: Path, target: Path, small_disk: Callable[[int], Path]
) -> None:
    directory = small_disk(3 << 20)

    def fill(report: TensorReport) -> None:
        if report.index == 2:
            with pytest.raises(OSError, match="No space"):
                (directory / "other").write_bytes(bytes(3 << 20))

    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        quantize(checkpoint, directory / "model", "int8", on_tensor=fill)
    assert [path.name for path in directory.iterdir()] == ["other"]
