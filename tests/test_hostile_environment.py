"""Every command in every hostile environment: the result and exit code of a sound one, or an error.

Homes are in test_hostile_homes.py: there commands do what they can.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from checkpoints import random_tensors, small_config, write_checkpoint
from packed import write_packed

from codegen_cli.commands.app import app

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and devices of Linux")

RUNNER = Path(__file__).parent / "many_commands.py"

# A line for each command, and for each kind of result that it writes. They change nothing that
# another one reads, so that all can be run again and again.
COMMANDS = [
    [],
    ["--version"],
    ["--help"],
    ["complete", "--help"],
    ["complete", "-q", "-m", "nano", "-t", "0", "-n", "4", "--echo", "naïve ="],
    ["batch", "-q", "-m", "nano", "-t", "0", "-n", "4", "--seed", "7", "{lines}"],
    ["score", "-m", "nano", "--tokens", "{text}"],
    ["embed", "-q", "-m", "nano", "--json", "{text}"],
    ["quantize", "-q", "{checkpoint}", "--format", "int4", "-o", "{work}/tiny.int4.safetensors"],
    ["models", "list"],
    ["models", "list", "--json"],
    ["models", "show", "nano"],
    ["models", "path", "nano"],
    ["models", "default"],
    ["models", "verify", "-q", "{packed}", "--json"],
    ["models", "import", "-q", "{packed}", "--name", "mine", "--force"],
    ["models", "rm", "-q", "mine", "--yes", "--json"],
    ["models", "prune", "-q", "--json"],
    ["download", "-q", "nobody/no-model"],
    ["complete", "-m", "no-such-model", "x"],
    ["complete", "--temperature", "warm", "x"],
]
# These take seconds, and tell what they measured: run once, where all that is harmless is set.
SLOW = [
    ["bench", "-q", "-m", "nano", "--rounds", "1", "--json"],
    ["doctor", "-q", "--json"],
]
# What differs from run to run: the time that a check took, the memory that others leave.
CHANGING = re.compile(r'"seconds": [^,}]*|"memory_available_bytes": \d*|[\d.]+ GB of memory')


class Outcome(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "nowhere.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "utf-16"},
]
HARMLESS = [
    *LOCALES,
    {"NUMBA_DISABLE_JIT": "1", "NUMBA_DEBUG": "1", "NUMBA_DUMP_ASSEMBLY": "1"},
    {"NUMBA_CPU_NAME": "nonsense", "NUMBA_CPU_FEATURES": "+nonsense", "NUMBA_ENABLE_AVX": "0"},
    {"NUMBA_OPT": "abc", "NUMBA_NUM_THREADS": "abc", "NUMBA_THREADING_LAYER": "nonsense"},
    {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": "/dev/null", "NUMBA_COLOR_SCHEME": "nonsense"},
    {"COLUMNS": "0", "LINES": "abc", "TERM": ""},
    {"COLUMNS": "1000000000000", "TERM": "nonsense", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"},
    {"TMPDIR": "/nowhere", "TZ": "nowhere", "OPENBLAS_NUM_THREADS": "abc", "OMP_NUM_THREADS": "-1"},
    {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "always"},
]
# What numba reads, and what starts the process anew: there packing in int4 compiles.
COMPILING = ("NUMBA_", "LC_ALL")
# In the working directory, wherever NUMBA_* is set.
NUMBA_CONFIG = "disable_jit: 1\ncpu_name: generic\nenable_avx: 0\nopt: 0\nboundscheck: 1\n"
# What only a command that talks to the hub reads.
OF_THE_HUB = [
    {"HF_HUB_DOWNLOAD_TIMEOUT": "abc", "HF_HUB_ETAG_TIMEOUT": "abc"},
    {"HF_TOKEN": "hf_äbc"},
    {"HF_ENDPOINT": "http://a b"},
    {"HF_HUB_OFFLINE": "", "ALL_PROXY": "socks4://127.0.0.1:1080", "http_proxy": "foo:bar:baz"},
    {"HF_HUB_VERBOSITY": "nonsense", "HF_HUB_DISABLE_XET": "maybe", "TQDM_MININTERVAL": "abc"},
]
REFUSING = ["full", "gone", "closed"]


def shown(changes: Mapping[str, str]) -> str:
    return ",".join(f"{name}={text}" for name, text in changes.items())


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tmp = tmp_path_factory.mktemp("inputs")
    config = small_config(vocab_size=51200, n_positions=64)
    (tmp / "text").write_text("import os\n# é\n")
    (tmp / "lines").write_text('{"prompt": "naïve ="}\n', encoding="utf-8")
    (tmp / "work").mkdir()
    (tmp / "configured").mkdir()
    (tmp / "configured" / ".numba_config.yaml").write_text(NUMBA_CONFIG)
    return {
        "text": str(tmp / "text"),
        "lines": str(tmp / "lines"),
        "packed": str(write_packed(tmp / "mine.int8.safetensors")),
        "checkpoint": str(write_checkpoint(tmp / "tiny", config, random_tensors(config, 1))),
        "work": str(tmp / "work"),
        "configured": str(tmp / "configured"),
        "home": str(tmp / "home"),
        "search": str(tmp / "search"),
    }


@pytest.fixture(scope="module")
def run(names: dict[str, str], compiled_kernels: None, home: Path):
    [object_code] = (home / "cache" / "kernels").glob("*.o")
    own = {"CODEGEN_TEST_OBJECT": str(object_code), "CODEGEN_HOME": names["home"]}

    def run(commands: list[list[str]], **changes: str) -> list[Outcome]:
        # Elsewhere once is enough for all environments.
        if not any(name.startswith(COMPILING) for name in changes):
            changes["CODEGEN_TEST_SEARCH"] = names["search"]
        is_for_numba = any(name.startswith("NUMBA_") for name in changes)
        lines = [[part.format(**names) for part in each] for each in commands]
        ran = subprocess.run(
            [sys.executable, str(RUNNER)],
            input=json.dumps(lines),
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=names["configured" if is_for_numba else "work"],
            env=os.environ | own | changes,
            timeout=600,
            check=True,
        )
        return [Outcome(*each) for each in json.loads(ran.stdout)]

    return run


@pytest.fixture(scope="module")
def sound(run) -> list[Outcome]:
    """What the commands do where nothing is wrong."""
    return run(COMMANDS)


def result(outcome: Outcome) -> tuple[int, str]:
    """What must not change: the exit code and stdout."""
    return outcome.code, CHANGING.sub("", outcome.out)


def judge(command: list[str], outcome: Outcome) -> None:
    """Where a command fails, it says so at most once, and never with a traceback."""
    assert outcome.err.count("error: ") <= 1, (command, outcome.err)
    assert "Traceback" not in outcome.err, (command, outcome.err)
    assert "Warning" not in outcome.err, (command, outcome.err)
    assert 0 <= outcome.code <= 2, (command, outcome)


def paths_of(group: typer.Typer, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for each in group.registered_commands:
        assert each.callback is not None
        yield *above, each.name or each.callback.__name__.replace("_", "-")
    for each in group.registered_groups:
        assert each.typer_instance is not None
        yield from paths_of(each.typer_instance, (*above, str(each.name)))


def test_the_table_has_every_command() -> None:
    lines = [tuple(line) for line in COMMANDS + SLOW]
    missing = [
        path for path in paths_of(app) if not any(line[: len(path)] == path for line in lines)
    ]
    assert missing == []


def test_a_sound_environment_gives_results(sound: list[Outcome]) -> None:
    codes = {
        " ".join(command): outcome.code for command, outcome in zip(COMMANDS, sound, strict=True)
    }
    failed = {command for command, code in codes.items() if code}
    assert all("rror: " in outcome.err for outcome in sound if outcome.code)
    assert failed == {
        "download -q nobody/no-model",
        "complete -m no-such-model x",
        "complete --temperature warm x",
    }
    for command, outcome in zip(COMMANDS, sound, strict=True):
        judge(command, outcome)


@pytest.mark.parametrize("changes", HARMLESS, ids=shown)
def test_what_is_set_for_others_changes_nothing(
    run, sound: list[Outcome], changes: dict[str, str]
) -> None:
    for command, outcome, expected in zip(COMMANDS, run(COMMANDS, **changes), sound, strict=True):
        assert result(outcome) == result(expected), (command, outcome.err)
        judge(command, outcome)


@pytest.mark.parametrize("changes", OF_THE_HUB, ids=shown)
def test_what_is_wrong_for_the_hub_is_told_by_download_alone(
    run, sound: list[Outcome], changes: dict[str, str]
) -> None:
    for command, outcome, expected in zip(COMMANDS, run(COMMANDS, **changes), sound, strict=True):
        assert result(outcome) == result(expected), (command, outcome.err)
        judge(command, outcome)
        if command[0:1] != ["download"]:
            assert CHANGING.sub("", outcome.err) == CHANGING.sub("", expected.err)


@pytest.mark.parametrize("kind", REFUSING)
def test_a_stdout_that_takes_nothing_is_an_error_wherever_there_is_a_result(
    run, sound: list[Outcome], kind: str
) -> None:
    outcomes = run(COMMANDS, CODEGEN_TEST_STDOUT=kind)
    for command, outcome, expected in zip(COMMANDS, outcomes, sound, strict=True):
        judge(command, outcome)
        if kind == "closed" or not expected.out:  # to a closed stream nobody listens
            assert outcome.code == expected.code, (command, outcome)
        else:
            assert outcome.code == 1, (command, outcome)
            is_told = "error: cannot write to stdout: " in outcome.err
            assert is_told is (kind == "full"), (command, outcome)


@pytest.mark.parametrize("kind", REFUSING)
def test_a_stderr_that_takes_nothing_changes_no_result(
    run, sound: list[Outcome], kind: str
) -> None:
    outcomes = run(COMMANDS, CODEGEN_TEST_STDERR=kind)
    for command, outcome, expected in zip(COMMANDS, outcomes, sound, strict=True):
        assert result(outcome) == result(expected), (command, outcome)


@pytest.mark.parametrize("command", SLOW, ids=lambda command: command[0])
def test_what_measures_is_not_disturbed(run, command: list[str]) -> None:
    changes = {}
    for each in HARMLESS + OF_THE_HUB:
        changes |= each
    [outcome] = run([command], **changes)
    judge(command, outcome)
    assert outcome.code == 0, outcome
    json.loads(outcome.out)
