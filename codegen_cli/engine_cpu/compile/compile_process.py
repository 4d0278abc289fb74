"""The kernels compiled in a process of their own -> one object file for this CPU."""

import os
import sys
import threading
from typing import BinaryIO, NoReturn, cast

from codegen_cli.engine_cpu.compile.kernel_compiler import OnProgress, compile_kernels
from codegen_cli.machine.child_process import receive, send
from quantize.files.errors import UserError
from quantize.processes.clean_process import failure, settle, start_clean

_SERVE = "from codegen_cli.engine_cpu.compile.compile_process import serve; serve()"


def compile_apart(on_progress: OnProgress = lambda done, total: None) -> bytes:
    """Return what `compile_kernels` does, and raise what it does.

    Raises UserError, too, where the process is ended from outside, as for lack of memory. Where no
    Python can be started, all is done in this process: on Windows, too, as the linker reads no
    COFF, so that numba is needed here in any case.
    """
    process = None if sys.platform == "win32" else start_clean(_SERVE)
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
    raise failure("the kernels cannot be compiled", process, said)


def serve() -> NoReturn:
    """Compile, and tell how far that is and what came of it; the other side of `compile_apart`."""
    wire = settle()
    threading.Thread(target=_end_with_whoever_asked, daemon=True).start()
    try:
        send(wire, ("code", compile_kernels(lambda *parts: send(wire, ("progress", *parts)))))
    except UserError as error:
        send(wire, ("error", error.message, error.hint))
    os._exit(0)


def _end_with_whoever_asked() -> None:
    """End at once when nobody is there any more to take the answer; LLVM handles no signal."""
    sys.stdin.buffer.read()
    os._exit(1)
