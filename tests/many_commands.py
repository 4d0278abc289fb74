"""Command lines on stdin -> what each of them does, as JSON; a process of its own for each.

All begin as copies of one process that has imported the commands: a table of many command lines in
many environments takes seconds. Kernels are not compiled; with CODEGEN_TEST_OBJECT they are what
that file holds. CODEGEN_TEST_NO_USER: nobody knows this user.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import codegen_cli.commands.app
import codegen_cli.language_model
import codegen_cli.reports.inventory  # noqa: F401
from codegen_cli.__main__ import main
from codegen_cli.engine import kernel_compiler


def unknown_user(uid: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


def outcome(arguments: list[str]) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = os.fork()
        if process == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["codegen", *arguments]
            try:
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
            ends.append(file.read().decode())
        return os.waitstatus_to_exitcode(status), ends[0], ends[1]


if __name__ == "__main__":
    if object_file := os.environ.get("CODEGEN_TEST_OBJECT"):
        kernel_compiler.compile_kernels = lambda on_progress: Path(object_file).read_bytes()
    if os.environ.get("CODEGEN_TEST_NO_USER"):
        import pwd

        pwd.getpwuid = unknown_user
    json.dump([outcome(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
