"""No home, or one that this user may not read or write: every command does what it can without."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from ordinary_user import as_ordinary_user
from packed import write_packed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="modes, owners and rights of Linux")

RUNNER = Path(__file__).parent / "many_commands.py"
COMPILING = "codegen: compiling kernels for this CPU, 20 to 60 s, at every start: "


class Place(NamedTuple):
    """A hostile home: what it is, how to make it in a directory, and what is told of it.

    make  returns changes of the environment; None removes a variable
    told  what the line on compiling tells
    """

    name: str
    make: Callable[[Path], dict[str, str | None]]
    told: str


def home_is_a_file(tmp: Path) -> dict[str, str | None]:
    (tmp / "file").touch()
    return {"HOME": str(tmp / "file"), "CODEGEN_HOME": None}


def closed(tmp: Path) -> Path:
    directory = tmp / "closed"
    directory.mkdir()
    (directory / "settings.json").write_text('{"default_model": "350M-mono"}')
    directory.chmod(0)
    return directory


def read_only(tmp: Path) -> dict[str, str | None]:
    directory = tmp / "read-only"
    for name in ("models", "cache"):
        (directory / name).mkdir(parents=True, mode=0o500)
    directory.chmod(0o500)
    return {"CODEGEN_HOME": str(directory)}


def loop(tmp: Path) -> dict[str, str | None]:
    (tmp / "loop").symlink_to(tmp / "loop")
    return {"CODEGEN_HOME": str(tmp / "loop")}


def codegen_home_is_a_file(tmp: Path) -> dict[str, str | None]:
    (tmp / "file").touch()
    return {"CODEGEN_HOME": str(tmp / "file")}


NOBODY = {"CODEGEN_TEST_NO_USER": "1", "CODEGEN_HOME": None}
NO_USER = "CODEGEN_HOME is ~no-such-user/x, and there is no such user ("
PLACES = [
    Place(
        "a device",
        lambda tmp: {"HOME": "/dev/null", "CODEGEN_HOME": None},
        "cannot write to /dev/null/",
    ),
    Place("a file", home_is_a_file, "Not a directory (CODEGEN_HOME"),
    Place(
        "closed",
        lambda tmp: {"HOME": str(closed(tmp)), "CODEGEN_HOME": None},
        "Permission denied (CODEGEN_HOME",
    ),
    Place("of nobody", lambda tmp: NOBODY | {"HOME": None}, "this user has no home directory ("),
    Place("empty", lambda tmp: NOBODY | {"HOME": ""}, "this user has no home directory ("),
    Place("relative", lambda tmp: NOBODY | {"HOME": "x"}, "HOME is 'x', no absolute path ("),
    Place(
        "relative XDG",
        lambda tmp: NOBODY | {"HOME": None, "XDG_CACHE_HOME": "x", "XDG_DATA_HOME": "x"},
        "this user has no home directory (",
    ),
    Place("CODEGEN_HOME a file", codegen_home_is_a_file, "Not a directory (CODEGEN_HOME"),
    Place(
        "CODEGEN_HOME closed",
        lambda tmp: {"CODEGEN_HOME": str(closed(tmp))},
        "Permission denied (CODEGEN_HOME",
    ),
    Place("CODEGEN_HOME read-only", read_only, "Permission denied (CODEGEN_HOME"),
    Place("CODEGEN_HOME a loop", loop, "symbolic links (CODEGEN_HOME"),
    Place(
        "CODEGEN_HOME too long",
        lambda tmp: {"CODEGEN_HOME": str(tmp / ("x" * 300))},
        "File name too long (CODEGEN_HOME",
    ),
    Place("CODEGEN_HOME of no user", lambda tmp: {"CODEGEN_HOME": "~no-such-user/x"}, NO_USER),
]

WITHOUT_HOME = [
    ["models", "list"],
    ["models", "list", "--json"],
    ["models", "path", "nano"],
    ["models", "show", "nano"],
    ["models", "default"],
    ["models", "verify"],
    ["models", "verify", "nano"],
    ["models", "prune"],
    ["complete", "-t", "0", "-n", "4", "x"],
    ["complete", "-m", "nano", "-t", "0", "-n", "4", "x"],
    ["score", "{text}"],
    ["quantize", "{checkpoint}", "-o", "{tmp}/out/mine.safetensors"],
]
NEED_HOME = [
    ["models", "default", "nano"],
    ["models", "default", "350M-mono"],
    ["models", "path", "350M-mono"],
    ["models", "import", "{packed}"],
    ["models", "rm", "mine", "--yes"],
    ["complete", "-m", "350M-mono", "x"],
    ["complete", "-m", "mine", "x"],
    ["complete", "-m", "{checkpoint}", "x"],
    ["quantize", "{checkpoint}"],
]
# A place that can be read holds nothing: what is missing there is just not there.
FINE_TO_READ = (
    ["models", "default", "350M-mono"],
    ["models", "path", "350M-mono"],
    ["models", "rm", "mine", "--yes"],
    ["complete", "-m", "350M-mono", "x"],
    ["complete", "-m", "mine", "x"],
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tmp = tmp_path_factory.mktemp("inputs")
    config = small_config(vocab_size=51200, n_positions=64)
    (tmp / "text").write_text("import os\n")
    return {
        "text": str(tmp / "text"),
        "packed": str(write_packed(tmp / "mine.int8.safetensors")),
        "checkpoint": str(write_checkpoint(tmp / "tiny", config, random_tensors(config, 1))),
    }


@pytest.mark.parametrize("place", PLACES, ids=[place.name for place in PLACES])
def test_every_command_does_what_it_can_without_a_home(
    place: Place, inputs: dict[str, str], compiled_kernels: None, home: Path, tmp_path: Path
) -> None:
    [object_code] = (home / "cache" / "kernels").glob("*.o")
    work = tmp_path / "work"
    work.mkdir()
    changes = {"CODEGEN_TEST_OBJECT": str(object_code)} | place.make(tmp_path)
    environment = {**os.environ, **{key: text for key, text in changes.items() if text is not None}}
    for name in [name for name, text in changes.items() if text is None]:
        environment.pop(name, None)
    names = inputs | {"tmp": str(tmp_path)}
    commands = [[part.format(**names) for part in each] for each in WITHOUT_HOME + NEED_HOME]
    ran = subprocess.run(
        [sys.executable, str(RUNNER)],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=work,
        env=environment,
        preexec_fn=as_ordinary_user,
        timeout=600,
        check=True,
    )
    outcomes = json.loads(ran.stdout)
    for command, (code, out, err) in zip(commands, outcomes, strict=True):
        shown = f"{' '.join(command)}: {code}\n{out}\n{err}"
        assert "Traceback" not in err, shown
        assert "once" not in err, shown
    for template, (code, _, err) in zip(WITHOUT_HOME, outcomes, strict=False):
        assert code == 0, f"{template}\n{err}"
        if template[0] in ("complete", "score"):
            [line] = [line for line in err.splitlines() if line.startswith(COMPILING)]
            assert place.told in line
            assert "CODEGEN_HOME" in line
    for template, (code, _, err) in zip(NEED_HOME, outcomes[len(WITHOUT_HOME) :], strict=True):
        assert code == 1, f"{template}\n{err}"
        assert err.startswith("error: "), err
        if "read-only" not in place.name or template not in FINE_TO_READ:
            assert "CODEGEN_HOME" in err, f"{template}\n{err}"
    assert list(work.iterdir()) == []  # nothing is made in the working directory


@pytest.mark.parametrize("place", ["/dev/null", "{closed}", "", "relative"])
def test_shell_completion_that_cannot_be_installed_is_one_error(tmp_path: Path, place: str) -> None:
    home = place.replace("{closed}", str(closed(tmp_path)))
    ran = subprocess.run(
        [sys.executable, "-m", "codegen_cli", "--install-completion", "bash"],
        env=os.environ | {"HOME": home, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=as_ordinary_user,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: cannot install shell completion: ")
    assert "--show-completion" in ran.stderr
    assert not (tmp_path / "relative").exists()


UNUSED_UID = 54321


def as_unknown_user() -> None:
    os.setgroups([])
    os.setgid(UNUSED_UID)
    os.setuid(UNUSED_UID)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("home", ["/root", None])
def test_a_user_without_an_entry_runs_what_needs_no_home(tmp_path: Path, home: str | None) -> None:
    names = {"CODEGEN_HOME", "HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"}
    environment = {name: text for name, text in os.environ.items() if name not in names}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            env=environment | ({} if home is None else {"HOME": home}),
            cwd="/",
            capture_output=True,
            text=True,
            preexec_fn=as_unknown_user,
        )

    try:
        if run("-c", "import codegen_cli.commands.app").returncode:
            pytest.skip("another user cannot read this installation")
    except PermissionError:
        pytest.skip("another user cannot run this Python")
    for command in (["path", "nano"], ["list"], ["verify", "nano"], ["prune"], ["default"]):
        ran = run("-m", "codegen_cli", "models", *command)
        assert ran.returncode == 0, ran.stderr
