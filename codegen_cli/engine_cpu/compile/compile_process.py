"""The kernels compiled in a process of their own -> one object file for this CPU.

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
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from codegen_cli.engine_cpu.compile.kernel_compiler import OnProgress, compile_kernels
from codegen_cli.machine.child_process import receive, send
from quantize.files.errors import UserError

_SERVE = (
    "import sys\n"
    "sys.path[:] = sys.argv[1:]\n"
    "from codegen_cli.engine_cpu.compile.compile_process import serve\n"
    "serve()\n"
)
_MORE_MEMORY = "It takes 0.5 GB of memory: end other programs, or raise the limit (ulimit -v)."


def compile_apart(on_progress: OnProgress = lambda done, total: None) -> bytes:
    """Return what `compile_kernels` does, and raise what it does.

    Raises UserError, too, where the process is ended from outside, as for lack of memory. Where no
    Python can be started, all is done in this process.
    """
    process = _start()
    if process is None:
        return compile_kernels(on_progress)
    answers, errors = cast(BinaryIO, process.stdout), cast(BinaryIO, process.stderr)
    with process:
        try:
            while (answer := receive(answers)) is not None:
                kind, *values = answer
                if kind == "progress":
                    on_progress(*values)
                elif kind == "error":
                    raise UserError(*values)
                else:
                    return bytes(values[0])
            said = errors.read().decode(errors="replace").strip()
        finally:
            process.kill()
    raise _failure(process.returncode, said)


def serve() -> NoReturn:
    """Compile, and tell how far that is and what came of it; the other side of `compile_apart`."""
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    gc.set_threshold(100_000)  # as in __main__: nearly all that numba makes stays
    threading.Thread(target=_end_with_whoever_asked, daemon=True).start()
    try:
        send(wire, ("code", compile_kernels(lambda *parts: send(wire, ("progress", *parts)))))
    except UserError as error:
        send(wire, ("error", error.message, error.hint))
    os._exit(0)


def _start() -> "subprocess.Popen[bytes] | None":
    # On Windows numba is needed here in any case: the linker reads no COFF.
    if sys.platform == "win32" or not sys.executable or getattr(sys, "frozen", False):
        return None
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")
    }
    options = ["-I", "-X", "utf8", *(["-B"] if sys.dont_write_bytecode else [])]
    try:
        return subprocess.Popen(
            [sys.executable, *options, "-c", _SERVE, *_import_paths()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parent,  # no settings lie there, and it exists
        )
    except OSError:
        return None


def _import_paths() -> Iterator[str]:
    """Yield where this process imports from, "" being its working directory and not the other's."""
    for path in sys.path:
        with contextlib.suppress(OSError):  # the working directory has gone, and all that was there
            yield str(Path(path).absolute())


def _end_with_whoever_asked() -> None:
    """End at once when nobody is there any more to take the answer; LLVM handles no signal."""
    sys.stdin.buffer.read()
    os._exit(1)


def _failure(code: int, said: str) -> Exception:
    if "memory" in said.lower() or code in (-signal.SIGKILL, -signal.SIGABRT):
        how = said.splitlines()[-1] if said else f"their process was ended by signal {-code}"
        return UserError(f"the kernels cannot be compiled: {how}", _MORE_MEMORY)
    return RuntimeError(f"the kernels cannot be compiled: exit {code}\n{said}")
