"""Kernels are compiled in a process of their own, which is gone when it should be."""

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


@pytest.mark.usefixtures("compiled_kernels")
def test_what_is_set_for_another_numba_is_not_set_for_ours(tmp_path: Path, home: Path) -> None:
    """Nor does ours touch that of the program that loads a model."""
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\nopt: 0\n")
    script = f"{LOAD}assert 'numba' not in sys.modules\n"
    settings = {"NUMBA_OPT": "0", "NUMBA_CPU_NAME": "generic", "NUMBA_DISABLE_JIT": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | settings | {"CODEGEN_HOME": str(tmp_path / "home")},
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert object_names(tmp_path / "home") == object_names(home)


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
@pytest.mark.parametrize(
    ("limit", "message", "hint"),
    [
        (300_000_000, "llvmlite cannot be imported", "raise it (ulimit -v)"),
        (500_000_000, "the kernels cannot be compiled", "raise the limit (ulimit -v)"),
    ],
)
def test_a_limit_of_memory_that_is_too_small_is_named(
    tmp_path: Path, limit: int, message: str, hint: str
) -> None:
    import resource

    result = subprocess.run(
        [sys.executable, "-m", "codegen_cli", "complete", "-q", "-n", "1", "x"],
        env=os.environ | {"CODEGEN_HOME": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, b"")
    lines = result.stderr.decode().splitlines()
    assert lines[0].startswith(f"error: {message}")
    assert hint in lines[-1]


def test_what_it_meets_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_KERNELS", "abacus")
    with pytest.raises(UserError, match="CODEGEN_KERNELS=abacus"):
        compile_process.compile_apart()
    monkeypatch.setattr(compile_process, "_SERVE", "raise SystemExit('a bug')")
    with pytest.raises(RuntimeError, match="exit 1\na bug"):
        compile_process.compile_apart()
    monkeypatch.setattr(compile_process, "_SERVE", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match="ended by signal 9"):
        compile_process.compile_apart()


def test_without_another_python_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_process, "compile_kernels", lambda on_progress: b"code")
    for executable in ("", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        assert compile_process.compile_apart() == b"code"
