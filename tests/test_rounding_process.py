"""Weights are rounded in a process of their own, which is gone when it should be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from quantize.files.errors import UserError
from quantize.quantize_model import quantize
from quantize.rounding import rounding_process
from quantize.rounding.rounding_process import RoundingProcess, shared_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def round_ones(process: RoundingProcess, format: str = "int4") -> bytes:
    """The codes of [2, 40] ones."""
    with process.portion(format, 2, 40, is_half=False) as portion:
        portion.rows[:2, :40] = 1
        process.round(portion)
        return portion.codes.tobytes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small_config(n_embd=40, vocab_size=97)
    source = tmp_path_factory.mktemp("source") / "model"
    return write_checkpoint(source, config, random_tensors(config, 11))


@pytest.fixture
def nobody_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no other test were within."""
    monkeypatch.setattr(rounding_process, "_shared", None)
    monkeypatch.setattr(rounding_process, "_n_users", 0)


# --- what is set for another numba ----------------------------------------------------------------

PACK = """
import os, signal, sys
from pathlib import Path
import quantize

def press_ctrl_c(report):
    if report.format == "int4":
        os.killpg(0, signal.SIGINT)

signal.signal(signal.SIGINT, lambda number, frame: None)
quantize.quantize(sys.argv[1], sys.argv[2], "int4", on_tensor=press_ctrl_c)
assert "numba" not in sys.modules
assert not any(file.read_text() for file in Path("/proc/self/task").glob("*/children"))
"""
# Code is the same with most of them, but slow. A dump fills the pipe, so that nothing goes on.
FOR_ANOTHER_NUMBA = {
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_ENABLE_AVX": "0",
    "NUMBA_OPT": "0",
    "NUMBA_BOUNDSCHECK": "1",
    "NUMBA_DUMP_ASSEMBLY": "1",
}


def test_a_program_that_packs_keeps_its_numba_and_its_signals_and_gets_the_same_bytes(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / ".numba_config.yaml").write_text("cpu_name: generic\ndump_assembly: 1\n")
    target = tmp_path / "hostile"
    ran = subprocess.run(
        [sys.executable, "-c", PACK, str(checkpoint), str(target)],
        cwd=tmp_path,
        env=os.environ | FOR_ANOTHER_NUMBA,
        capture_output=True,
        text=True,
        timeout=100,
        start_new_session=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    quantize(checkpoint, tmp_path / "sound", "int4")
    assert target.read_bytes() == (tmp_path / "sound").read_bytes()


def test_a_command_without_another_python_forgets_what_is_set(
    checkpoint: Path, tmp_path: Path
) -> None:
    code = "import sys; sys.executable = ''; from codegen_cli.__main__ import main; main()"
    arguments = ["quantize", "-q", str(checkpoint), "--format", "int4", "-o", str(tmp_path / "x")]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"NUMBA_DUMP_ASSEMBLY": "1"},
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, b"")


# --- when there is one ----------------------------------------------------------------------------


def test_a_small_model_in_int8_starts_none(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody_shares: None
) -> None:
    monkeypatch.setattr(rounding_process, "_SERVE", "sys.exit('was started')")
    for format in ("int8", "f16"):
        quantize(checkpoint, tmp_path / format, format)
    with pytest.raises(RuntimeError, match="was started"):
        quantize(checkpoint, tmp_path / "int4", "int4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f16", "int8"]


def test_all_who_are_within_share_it_until_the_last_has_left(nobody_shares: None) -> None:
    with shared_process() as outer:
        with shared_process() as inner:
            assert inner is outer
        assert outer._end is None
    with pytest.raises(RuntimeError, match="was closed"):
        round_ones(outer)
    with shared_process() as another:
        assert another is not outer


def test_a_copy_of_this_process_has_one_of_its_own() -> None:
    code = """
import os
from quantize.rounding.rounding_process import shared_process
with shared_process() as process:
    copy = os.fork()
    if not copy:
        with shared_process() as another:
            os._exit(another is process)
    assert os.waitpid(copy, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_closing_it_ends_work_in_progress() -> None:
    from concurrent.futures import ThreadPoolExecutor

    process = RoundingProcess()
    with ThreadPoolExecutor(1) as threads:
        searching = threads.submit(round_ones, process)
        while not process._asked:
            time.sleep(0.01)
        process.close()
        with pytest.raises(RuntimeError, match="was closed"):
            searching.result(timeout=30)
    assert process._process is not None
    assert process._process.returncode == -signal.SIGKILL


def test_what_ends_it_is_raised_by_this_call_and_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounding_process, "_SERVE", "raise MemoryError")
    process = RoundingProcess()
    for _ in range(2):
        with pytest.raises(UserError, match="weights cannot be rounded: MemoryError") as error:
            round_ones(process)
        assert "ulimit -v" in error.value.hint
    process.close()


def test_a_numba_that_cannot_be_imported_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 1.5 or less.')")
    monkeypatch.syspath_prepend(tmp_path)
    process = RoundingProcess()
    with pytest.raises(UserError) as error:
        round_ones(process)
    process.close()
    assert error.value.message == (
        "weights cannot be rounded: numba cannot be imported: Numba needs NumPy 1.5 or less."
    )
    assert "pip install --force-reinstall numba llvmlite" in error.value.hint


# --- a command that is ended, or loses it ---------------------------------------------------------


def children_of(process: int) -> list[int]:
    files = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text("ascii").split()]


@contextmanager
def packing(checkpoint: Path, target: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`codegen quantize` in a process group of its own, and the process that rounds for it."""
    command = [sys.executable, "-m", "codegen_cli", "quantize", "-q", str(checkpoint)]
    with subprocess.Popen(
        [*command, "--format", "int4", "-o", str(target)],
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        while not (children := children_of(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        yield process, children[0]
    ends = time.monotonic() + 30
    while Path(f"/proc/{children[0]}").exists():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_ended_from_outside_is_one_error(
    checkpoint: Path, tmp_path: Path, number: int
) -> None:
    with packing(checkpoint, tmp_path / "packed") as (process, child):
        os.kill(child, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.decode().splitlines() == [
        f"error: weights cannot be rounded: their process was ended by signal {number}",
        "hint: It takes 0.5 GB of memory: end other programs, or raise the limit (ulimit -v).",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_and_leaves_no_file(checkpoint: Path, tmp_path: Path, number: int) -> None:
    with packing(checkpoint, tmp_path / "packed") as (process, _):
        os.killpg(process.pid, number)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, b"")
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_whoever_asked(checkpoint: Path, tmp_path: Path) -> None:
    with packing(checkpoint, tmp_path / "packed") as (process, _):
        process.kill()
