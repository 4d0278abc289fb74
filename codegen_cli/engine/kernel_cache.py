"""Kernel sources -> a compiled step, kept in the user's cache directory for the next process."""

import ctypes
import hashlib
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from codegen_cli.engine import cpu
from codegen_cli.engine.threads import Step
from codegen_cli.store import paths

_KERNELS = Path(__file__).parent.parent / "kernels"


def load_step(on_compile: Callable[[], None]) -> Step:
    """Return the compiled step; call `on_compile` first if that takes seconds of compiling.

    numba writes its cache beside the sources unless told otherwise, and does not notice an edited
    kernel that is called from another file: hence a directory of our own for each state of the
    sources. Where that cannot be written, the step is compiled in every process.
    """
    directory = _directory()
    is_writable = _make_private(directory)
    if not is_writable or not any(directory.rglob("*.nbc")):
        on_compile()
    _cache_in(str(directory) if is_writable else "")
    try:
        module = importlib.import_module("codegen_cli.kernels.step")
    except Exception:
        # A cache file that was cut short or altered: numba has no check of its own.
        if not is_writable:
            raise
        shutil.rmtree(directory, ignore_errors=True)
        _cache_in("")
        sys.modules.pop("codegen_cli.kernels.step", None)
        on_compile()
        module = importlib.import_module("codegen_cli.kernels.step")
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    return prototype(module.run_step.address)


def _cache_in(directory: str) -> None:
    """Tell numba where to cache what it compiles from now on; "": nowhere."""
    from numba import config

    setattr(config, "CACHE_DIR", directory)  # noqa: B010 (numba sets its attributes at run time)


def _directory() -> Path:
    import llvmlite
    import numba

    digest = hashlib.sha256()
    for source in sorted(_KERNELS.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    compiler = f"{numba.__version__} {llvmlite.__version__} {cpu.kernel_path()}"
    digest.update(compiler.encode())
    return paths.cache_dir() / "kernels" / digest.hexdigest()[:16]


def _make_private(directory: Path) -> bool:
    """Create a directory that only this user can write; say whether files can be made there."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)
