"""In a real control group that is too small, each command that loads a model refuses or obeys."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codegen_cli.machine.system_files import control_groups

LIMIT = 150_000_000  # less than the bundled model is said to need, and more than it takes
HINT = b"--ignore-memory (ignore_memory=True in Python) runs it all the same"
COMMANDS = [
    ["complete", "-n", "2", "x"],
    ["score", __file__],
    ["embed", "--json", __file__],
    ["bench", "--rounds", "1"],
]

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def make_group() -> Path:
    """Return a new control group with the limit. Raises OSError where none can be made."""
    for version, own in control_groups("memory", Path("/")):
        group = own / f"codegen-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            name = "memory.limit_in_bytes" if version == 1 else "memory.max"
            (group / name).open("r+").close()  # else the controller is not there
            (group / name).write_text(str(LIMIT))
            return group
        except OSError:
            group.rmdir()
    raise OSError("no control group can be made")


@pytest.fixture(scope="module")
def run_limited() -> Iterator[Run]:
    """Run Python with arguments in a group that may not have LIMIT bytes."""
    try:
        group = make_group()
    except OSError as error:
        pytest.skip(str(error))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        enter = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
        command = ["sh", "-c", enter, "sh", str(group), sys.executable, *arguments]
        environment = os.environ | environment
        return subprocess.run(
            command, capture_output=True, env=environment, timeout=300, check=False
        )

    yield run
    group.rmdir()


@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_a_group_that_is_too_small_is_told_unless_memory_is_to_be_ignored(
    run_limited: Run, command: list[str]
) -> None:
    refused = run_limited("-m", "codegen_cli", *command)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"error: nano needs 0.2 GB of memory (file " in refused.stderr
    assert b"its control group, /sys/fs/cgroup/" in refused.stderr
    assert HINT in refused.stderr
    for arguments, environment in (
        (["--ignore-memory"], {}),
        ([], {"CODEGEN_IGNORE_MEMORY": "1"}),
    ):
        ran = run_limited("-m", "codegen_cli", *command, *arguments, **environment)
        assert ran.returncode == 0, ran.stderr.decode()
        assert ran.stdout
        assert b"are available: it may be very slow" in ran.stderr


@pytest.mark.usefixtures("compiled_kernels")
def test_so_does_the_api(run_limited: Run) -> None:
    script = (
        "import codegen_cli\n"
        "try:\n"
        "    codegen_cli.load('nano')\n"
        "except codegen_cli.UserError as error:\n"
        "    print(error.hint)\n"
        "print(codegen_cli.load('nano', ignore_memory=True).name)\n"
    )
    ran = run_limited("-c", script)
    assert ran.returncode == 0, ran.stderr.decode()
    assert HINT in ran.stdout
    assert ran.stdout.endswith(b"\nnano\n")
    assert ran.stderr == b""
