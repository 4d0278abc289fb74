"""Tests work in a home of their own, offline; what takes long to make is made once for them all."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

# No test depends on the speed of the machine or on the day's luck.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")

# Each core has a worker of its own: threads of PyTorch would only wait for one another. It reads
# this as it is imported, which test modules do before any fixture.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them, and so what they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

Codegen = Callable[..., subprocess.CompletedProcess[bytes]]

# Begun first, so that no worker is left alone with one of them at the end.
LONGEST = (
    "test_hostile_environment.py",
    "test_tokenizer.py",  # needs no kernels, which the one above compiles meanwhile
    "test_streams.py",
    "test_hostile_homes.py",
    "test_locale.py",
    "test_kernel_cache.py",
    "test_doctor_command.py",
    "test_bit_identity.py",
    "test_kernel_paths.py",
    "test_api.py",
    "test_parity.py",
    "test_complete_command.py",
    "test_score_command.py",
    "test_quantize_command.py",
    "test_models_command.py",
    "test_notes.py",
    "test_shell.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; pytest-xdist deals files out in this order."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of this session: all workers of pytest-xdist have the same."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Path]:
    """$CODEGEN_HOME of this process and of those it starts."""
    directory = tmp_path_factory.mktemp("home")
    changes = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("CODEGEN_", "HF_"))]:
        if name != "CODEGEN_KERNELS":  # CI runs the tests on each path
            changes.delenv(name)
    changes.setenv("CODEGEN_HOME", str(directory))
    changes.setenv("HF_HOME", str(directory / "hub"))
    changes.setenv("HF_HUB_OFFLINE", "1")
    if sys.dont_write_bytecode:  # keep it elsewhere: hundreds of processes would make it anew
        changes.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        changes.setenv("PYTHONPYCACHEPREFIX", str(shared / "bytecode"))
    yield directory
    changes.undo()
    left = [*directory.glob("hub/hub/models--*"), *directory.glob("models/*")]
    assert not left, "a test left a model where all tests of this process look"


@pytest.fixture(scope="session", autouse=True)
def rounding_process() -> Iterator[None]:
    """The kernels that round are compiled once for all that this process packs."""
    from quantize.rounding.rounding_process import shared_process

    with shared_process():
        yield


@pytest.fixture(scope="session")
def codegen() -> Codegen:
    """Run `codegen ARGUMENTS...` to its end, in this process's environment with changes."""

    def run(*arguments: str, stdin: bytes = b"", timeout: float = 120, **environment: str):
        return subprocess.run(
            [sys.executable, "-m", "codegen_cli", *arguments],
            input=stdin,
            capture_output=True,
            env=os.environ | environment,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def compiled_kernels(codegen: Codegen, home: Path, shared: Path) -> None:
    """Kernels are in the cache from here on: no run stops to compile or says that it does.

    $TEST_KERNELS  a cache of kernels that has them, or gets them; CI runs many sessions
    """
    here = home / "cache" / "kernels"
    first = Path(os.environ.get("TEST_KERNELS") or shared / "kernels")
    with FileLock(shared / "kernels.lock"):
        if first.exists() and not here.exists():
            shutil.copytree(first, here)
        assert codegen("complete", "-q", "-n", "1", "x", timeout=600).returncode == 0
        shutil.copytree(here, first, dirs_exist_ok=True)
