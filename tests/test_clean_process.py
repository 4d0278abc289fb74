"""A clean process has numba as it comes, and imports what this process does."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantize.files.errors import UserError
from quantize.processes import clean_process
from quantize.processes.clean_process import failure, start_clean

CONFIG = (
    "import json, os; from numba import config; "
    "names = [name for name in vars(config) if name.isupper()]; "
    "print(json.dumps([{name: repr(getattr(config, name)) for name in names}, os.getcwd()]))"
)


def said_by(line: str) -> str:
    process = start_clean(line)
    assert process is not None
    out, errors = process.communicate()
    assert errors == b""
    return out.decode()


def test_no_settings_for_another_numba_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_comes, directory = json.loads(said_by(CONFIG))
    assert Path(directory) == Path(clean_process.__file__).parent
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\nopt: 0\nboundscheck: 1\n")
    for name, text in {"CPU_NAME": "generic", "ENABLE_AVX": "0", "CACHE_DIR": "/dev"}.items():
        monkeypatch.setenv(f"NUMBA_{name}", text)
    assert json.loads(said_by(CONFIG)) == [as_it_comes, directory]


def test_it_imports_from_where_this_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout that is not installed, where "" stands for the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "packages", *sys.path])
    said = said_by("print(sys.path[:2])")
    assert said == f"{[str(tmp_path), str(tmp_path / 'packages')]}\n"
    tmp_path.rmdir()
    assert [*clean_process._import_paths()] == sys.path[2:]


def test_there_is_none_without_a_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        assert start_clean("pass") is None


@pytest.mark.skipif(sys.platform == "win32", reason="ends processes by signals")
@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("sys.exit('a bug')", RuntimeError, "it fails: exit 1\na bug"),
        ("import os; os.kill(os.getpid(), 11)", RuntimeError, "it fails: exit -11\n"),
        (f"import os; os.kill(os.getpid(), {signal.SIGTERM})", UserError, "ended by signal 15"),
        ("raise MemoryError", UserError, "it fails: MemoryError"),
        ("sys.exit('LLVM ERROR: out of memory')", UserError, "it fails: LLVM ERROR: out of"),
        ("sys.exit('numba cannot be imported: x')", UserError, "it fails: numba cannot be imp"),
    ],
)
def test_what_ends_it_is_told(line: str, kind: type[Exception], message: str) -> None:
    process = start_clean(line)
    assert isinstance(process, subprocess.Popen)
    _, errors = process.communicate()
    error = failure("it fails", process, errors.decode().strip())
    assert isinstance(error, kind)
    assert message in str(error)
    assert "ulimit -v" in getattr(error, "hint", "ulimit -v")
