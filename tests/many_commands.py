"""Command lines on stdin -> what each of them does, as JSON; a process of its own for each.

All begin as copies of one process that has imported the commands: a table of many command lines in
many environments takes seconds. Kernels are not compiled; with CODEGEN_TEST_OBJECT they are what
that file holds. CODEGEN_TEST_SEARCH: a directory that keeps what packing in int4 compiles.
CODEGEN_TEST_NO_USER: nobody knows this user. CODEGEN_TEST_STDOUT and _STDERR: full, gone (a pipe
that nobody reads) or closed.
"""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

from codegen_cli.__main__ import main
from codegen_cli.engine_cpu.compile import compile_process


def unknown_user(uid: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


def lead(stream: int, file: int, kind: str | None) -> None:
    """Let a standard stream lead to a file, or nowhere."""
    if kind == "full":
        file = os.open("/dev/full", os.O_WRONLY)
    elif kind == "gone":
        reader, file = os.pipe()
        os.close(reader)
    if kind != "closed":
        os.dup2(file, stream)
        return
    os.close(stream)
    setattr(sys, ("stdin", "stdout", "stderr")[stream], None)  # as Python itself begins then


def keep_search(directory: str) -> None:
    """Compile the kernels that round once for all processes that name this directory."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as main has it, before NumPy
    rounding_process = importlib.import_module("quantize.rounding.rounding_process")
    rounding_process._SERVE = (
        f"import numba; numba.config.CACHE_DIR = {directory!r}; "
        "from quantize.rounding import band_kernels; "
        "[kernel.enable_caching() for kernel in (band_kernels._int4, band_kernels._int8)]; "
        f"{rounding_process._SERVE}"
    )


def outcome(arguments: list[str]) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = os.fork()
        if process == 0:
            lead(1, out.fileno(), os.environ.get("CODEGEN_TEST_STDOUT"))
            lead(2, err.fileno(), os.environ.get("CODEGEN_TEST_STDERR"))
            # As Python reads them: a byte that the locale does not know is a surrogate.
            arguments = [os.fsdecode(argument.encode()) for argument in arguments]
            sys.argv = ["codegen", *arguments]
            # Where main starts the process anew, it is to be this command.
            sys.orig_argv = [sys.executable, "-m", "codegen_cli", *arguments]
            try:
                if (search := os.environ.get("CODEGEN_TEST_SEARCH")) and "quantize" in arguments:
                    keep_search(search)
                main()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            finally:
                os._exit(99)
        _, status = os.waitpid(process, 0)
        ends = []
        for file in (out, err):
            file.seek(0)
            ends.append(file.read().decode(errors="surrogateescape"))
        return os.waitstatus_to_exitcode(status), ends[0], ends[1]


if __name__ == "__main__":
    if object_file := os.environ.get("CODEGEN_TEST_OBJECT"):
        compile_process.compile_apart = lambda on_progress: Path(object_file).read_bytes()
    if os.environ.get("CODEGEN_TEST_NO_USER"):
        import pwd

        pwd.getpwuid = unknown_user
    importlib.import_module("codegen_cli.commands.app")  # so that no copy has to
    outcomes = [outcome(arguments) for arguments in json.loads(sys.stdin.buffer.read())]
    sys.stdout.buffer.write(json.dumps(outcomes).encode())
