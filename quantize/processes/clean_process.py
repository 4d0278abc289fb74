"""A line of Python -> a process that runs it with numba as it comes, whatever is set here.

numba takes its settings from NUMBA_* and from .numba_config.yaml in the working directory, whoever
put them there and for whatever program: some change numbers, some end the process inside LLVM. So
it is imported where nothing of this reaches it, and where it changes nothing for anybody else.
"""

import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from quantize.files.errors import UserError

_IMPORT_AS_HERE = "import sys; sys.path[:] = sys.argv[1:]; "
# What ends a process on account of others, or of memory; any other signal tells of a bug.
_ENDED_BY_OTHERS = ("SIGKILL", "SIGTERM", "SIGABRT", "SIGHUP")
_MORE_MEMORY = "It takes 0.5 GB of memory: end other programs, or raise the limit (ulimit -v)."
_REPAIR = (
    "Install it again (pip install --force-reinstall numba llvmlite), or raise the limit of memory "
    "(ulimit -v) if there is one."
)

NO_NUMBA = "numba cannot be imported"
"""How what is said on stderr begins where that is so."""


def start_clean(
    line: str, inherits: Sequence[int] = (), stderr: int = subprocess.PIPE
) -> "subprocess.Popen[bytes] | None":
    """Start a Python that runs a line, its three streams piped; None where there can be none.

    inherits  descriptors of files that it is to have too, under the same numbers; not on Windows
    stderr    a descriptor of the file where its stderr leads instead

    It imports from where this process does.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    if inherits and sys.platform == "win32":
        return None
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")
    }
    environment["OPENBLAS_NUM_THREADS"] = "1"  # no product there is NumPy's
    options = ["-I", "-X", "utf8", *(["-B"] if sys.dont_write_bytecode else [])]
    try:
        return subprocess.Popen(
            [sys.executable, *options, "-c", _IMPORT_AS_HERE + line, *_import_paths()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            cwd=Path(__file__).parent,  # no settings lie there, and it exists
            pass_fds=inherits,
            process_group=0,  # Ctrl-C is for this process, which then ends the other
        )
    except OSError:
        return None


def settle() -> BinaryIO:
    """Make a process that start_clean has started ready to serve; return where answers go.

    It has to end when its stdin does, for then nobody is there any more to take an answer.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    gc.set_threshold(100_000)  # as in __main__: nearly all that numba makes stays
    return answers


def failure(what: str, process: "subprocess.Popen[bytes]", said: str) -> Exception:
    """Return what to raise for a process that has ended before its work was done.

    A UserError where memory was short, where somebody ended it, and where there is no numba;
    else it is a bug. `what` is what cannot be done; `said` is what was on stderr.
    """
    code = process.returncode
    ended = signal.Signals(-code).name if code < 0 else ""
    how = said.splitlines()[-1] if said else f"their process was ended by signal {-code}"
    if "memory" in said.lower() or ended in _ENDED_BY_OTHERS:
        return UserError(f"{what}: {how}", _MORE_MEMORY)
    if said.startswith(NO_NUMBA):
        return UserError(f"{what}: {how}", _REPAIR)
    return RuntimeError(f"{what}: exit {code}\n{said}")


def _import_paths() -> Iterator[str]:
    """Yield where this process imports from, "" being its working directory and not the other's."""
    for path in sys.path:
        with contextlib.suppress(OSError):  # the working directory has gone, and all that was there
            yield str(Path(path).absolute())
