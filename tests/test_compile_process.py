"""Kernels are compiled in a process of their own, which is gone when it should be.

test_kernel_cache.py compiles beside settings for another numba.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codegen_cli.engine_cpu.compile import compile_process
from quantize.files.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="compiles in this process there")

LOAD = "import sys, codegen_cli\ncodegen_cli.load('nano').close()\n"


def object_names(home: Path) -> list[str]:
    return [path.name for path in (home / "cache" / "kernels").glob("*.o")]


def children_of(process: int) -> list[int]:
    files = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text("ascii").split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_ends_with_whoever_asked(tmp_path: Path) -> None:
    environment = os.environ | {"CODEGEN_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", LOAD], env=environment) as process:
        while not (children := children_of(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    [child] = children
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert object_names(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits what a process may have")
def test_a_limit_of_memory_that_is_too_small_is_named(tmp_path: Path) -> None:
    import resource

    limit = 300_000_000
    result = subprocess.run(
        [sys.executable, "-m", "codegen_cli", "complete", "-q", "-n", "1", "x"],
        env=os.environ | {"CODEGEN_HOME": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, b"")
    lines = result.stderr.decode().splitlines()
    assert lines[0].startswith("error: llvmlite cannot be imported")
    assert "raise it (ulimit -v)" in lines[-1]


def test_what_it_meets_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_KERNELS", "abacus")
    with pytest.raises(UserError, match="CODEGEN_KERNELS=abacus"):
        compile_process.compile_apart()
    monkeypatch.setattr(compile_process, "_SERVE", "raise SystemExit('a bug')")
    with pytest.raises(RuntimeError, match="exit 1\na bug"):
        compile_process.compile_apart()
    for script, message in (
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("raise SystemExit('LLVM ERROR: out of memory')", "LLVM ERROR: out of memory"),
    ):
        monkeypatch.setattr(compile_process, "_SERVE", script)
        with pytest.raises(UserError, match=message) as raised:
            compile_process.compile_apart()
        assert "ulimit -v" in raised.value.hint


def test_without_another_python_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_process, "compile_kernels", lambda on_progress: b"code")
    for executable in ("", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        assert compile_process.compile_apart() == b"code"
