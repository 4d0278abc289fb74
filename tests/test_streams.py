"""stdout takes all of a result or there is an error; stderr takes what it can and stops nothing."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes, limits and signals"),
    pytest.mark.usefixtures("compiled_kernels"),
]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as Linux has it")

SCRIPTS = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
# Everything that writes to stdout: (arguments, changes to the environment).
RESULTS = {
    "start": ((), {}),
    "version": (("--version",), {}),
    "help": (("--help",), {}),
    "help of a command": (("models", "list", "--help"), {}),
    "help of a group": (("models", "--help"), {}),
    "completion script": (("--show-completion", "bash"), SCRIPTS),
    "completion script for eval": ((), {"_CODEGEN_COMPLETE": "source_zsh"}),
    "completed words": (
        (),
        {
            "_CODEGEN_COMPLETE": "complete_bash",
            "COMP_WORDS": "codegen complete --",
            "COMP_CWORD": "2",
        },
    ),
    "table": (("models", "list", "-q"), {}),
    "JSON": (("models", "list", "-q", "--json"), {}),
    "path": (("models", "path", "nano"), {}),
    "default": (("models", "default", "-q"), {}),
    "verify": (("models", "verify", "nano"), {}),
    "complete": (("complete", "-q", "-t", "0", "-n", "12", "--echo", "import os\n"), {}),
    "complete --json": (("complete", "-q", "-t", "0", "-n", "2", "--json", "x"), {}),
    "score": (("score", "-q", "{file}"), {}),
    "score --json": (("score", "-q", "--json", "{file}"), {}),
    "score --tokens": (("score", "-q", "--tokens", "{file}"), {}),
    "embed": (("embed", "-q", "{file}"), {}),
    "embed --json": (("embed", "-q", "--json", "{file}"), {}),
}
# Results that measure time or memory: no two are the same.
VARYING = ("table", "JSON", "verify", "complete --json")
# What Python does with its own buffer makes no difference.
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
BUFFERS = {"buffered": {}, "unbuffered": UNBUFFERED}


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return kept | changes


def start(*arguments, stdin=subprocess.DEVNULL, changes=None, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    command = [sys.executable, "-m", "codegen_cli", *map(str, arguments)]
    return subprocess.Popen(command, stdin=stdin, env=environment(**changes or {}), **options)


def run(*arguments, **options):
    """Run `codegen ARGUMENTS` to its end: exit code, stdout and stderr where they are pipes."""
    process = start(*arguments, **options)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, None if stderr is None else stderr.decode()


@contextmanager
def running(*arguments, **options):
    """A process that is waited for, unless the test has failed."""
    with start(*arguments, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "a.py"
    path.write_text("import os\n")
    return path


def called(name, file):
    arguments, changes = RESULTS[name]
    return [word.format(file=file) for word in arguments], changes


def limited_to(n_bytes):
    """What a child does first to have a limit on its files: writes come up short, then fail."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


# --- stdout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESULTS)
def test_a_file_that_may_not_grow_is_one_error(tmp_path, file, name):
    arguments, changes = called(name, file)
    with (tmp_path / "out").open("wb") as target:
        code, _, stderr = run(
            *arguments, changes=changes | UNBUFFERED, stdout=target, preexec_fn=limited_to(4)
        )
    assert code == 1
    assert stderr == (
        "error: cannot write to stdout: File too large\n"
        "hint: A limit on the size of files is in the way: see `ulimit -f`.\n"
    )
    assert (tmp_path / "out").stat().st_size == 4


@needs_full
@pytest.mark.parametrize("name", RESULTS)
def test_a_full_disk_is_one_error_without_a_buffer_too(file, name):
    arguments, changes = called(name, file)
    with Path("/dev/full").open("wb") as full:
        code, _, stderr = run(*arguments, changes=changes | UNBUFFERED, stdout=full)
    assert code == 1
    assert stderr == (
        "error: cannot write to stdout: No space left on device\n"
        "hint: Free some space, or write to another disk.\n"
    )


@pytest.mark.parametrize("name", RESULTS)
def test_a_reader_that_has_gone_is_not_spoken_of(file, name):
    arguments, changes = called(name, file)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = run(*arguments, changes=changes | UNBUFFERED, stdout=writer)
    finally:
        os.close(writer)
    assert found == (1, None, "")


@needs_linux
def test_a_stdout_that_cannot_be_written_to_is_named():
    with Path(os.devnull).open("rb") as unwritable:
        code, _, stderr = run("--version", stdout=unwritable)
    assert code == 1
    assert stderr.splitlines()[0] == "error: cannot write to stdout: Bad file descriptor"


@contextmanager
def pipe(*, waits):
    """(reader, writer) of a small pipe; a writer that does not wait gets EAGAIN."""
    reader, writer = os.pipe()
    if sys.platform.startswith("linux"):
        import fcntl

        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    os.set_blocking(writer, waits)
    try:
        yield reader, writer
    finally:
        os.close(reader)


def fill(writer):
    """Put as many zeros into a pipe as it takes; return their number."""
    n_zeros = 0
    try:
        while True:
            n_zeros += os.write(writer, b"\0" * 512)
    except BlockingIOError:
        return n_zeros


def read_all(reader):
    return b"".join(iter(lambda: os.read(reader, 1000), b""))


@pytest.mark.parametrize("name", RESULTS)
def test_a_full_pipe_that_does_not_wait_is_waited_for(file, name):
    arguments, changes = called(name, file)
    _, expected, _ = run(*arguments, changes=changes)
    with pipe(waits=False) as (reader, writer):
        n_zeros = fill(writer)
        with running(*arguments, changes=changes, stdout=writer) as process:
            os.close(writer)
            time.sleep(0.5)  # it comes to its first write; if it is late, it has an easier test
            found = read_all(reader)[n_zeros:]
            stderr = process.stderr.read()
    assert process.returncode == 0
    assert bool(stderr) is (name == "score --tokens")  # its sums go there
    if name in VARYING:
        found, expected = outline(found), outline(expected)
    assert found == expected


def outline(result):
    """The names of all fields, or the first word of each line."""
    if result.startswith(b"{"):
        return list(json.loads(result))
    return [line.split()[:1] for line in result.splitlines()]


CUT_PROMPT = re.compile(b"codegen: the prompt is too long: [^\\n]*\\n")


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """A prompt of 300 kB of which no two places look the same."""
    path = tmp_path_factory.mktemp("texts") / "long.py"
    path.write_bytes(b"".join(b"value_%d = %d\n" % (i, i * i) for i in range(12000)))
    return path


@pytest.mark.parametrize("buffer", BUFFERS)
def test_a_slow_reader_gets_every_byte_once(long_file, buffer):
    with (
        pipe(waits=False) as (reader, writer),
        running(
            *("complete", "-q", "-n", "1", "-t", "0", "--echo", "--file", long_file),
            changes=BUFFERS[buffer],
            stdout=writer,
        ) as process,
    ):
        os.close(writer)
        found = read_all(reader)
        stderr = process.stderr.read()
    assert process.returncode == 0
    assert CUT_PROMPT.fullmatch(stderr)
    assert found.startswith(long_file.read_bytes())


def await_full(reader):
    """Wait until a pipe of two pages holds more than one: whoever writes can go no further."""
    import fcntl
    import struct
    import termios

    end = time.monotonic() + 120
    while struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4))[0] < 4096:
        assert time.monotonic() < end, "nothing more is written"
        time.sleep(0.01)


@needs_linux
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_text_is_written_ends_it_there(long_file, number, expected, waits):
    with pipe(waits=waits) as (reader, writer):
        with running(
            *("complete", "-q", "-n", "1", "--echo", "--file", long_file), stdout=writer
        ) as process:
            os.close(writer)
            await_full(reader)
            process.send_signal(number)
            assert process.wait(timeout=60) == expected  # nobody reads meanwhile
            assert CUT_PROMPT.fullmatch(process.stderr.read())
        found = read_all(reader)
    assert len(found) >= 4096
    assert long_file.read_bytes().startswith(found)


@needs_linux
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_json_is_written_leaves_whole_json(
    tmp_path, number, expected, buffer, waits
):
    text = tmp_path / "text.py"
    text.write_text("def add(a, b):\n    return a + b\n" * 8)
    with (
        pipe(waits=waits) as (reader, writer),
        running(
            *("score", "-q", "--json", "--tokens", text, text),
            changes=BUFFERS[buffer],
            stdout=writer,
        ) as process,
    ):
        os.close(writer)
        await_full(reader)
        process.send_signal(number)
        report = json.loads(read_all(reader))
        assert process.wait(timeout=60) == expected
        assert process.stderr.read() == b""
    assert len(report["files"]) == 1
    assert report["is_complete"] is False
    assert len(report["files"][0]["token_scores"]) == report["total"]["tokens"]


@pytest.mark.parametrize("limit", [1, 100, 200, 4000])
def test_a_full_disk_in_the_middle_of_an_array_is_an_error(tmp_path, file, limit):
    target = tmp_path / "vectors.npy"
    with target.open("wb") as stdout:
        code, _, stderr = run(
            *("embed", "-q", *[file] * 20), stdout=stdout, preexec_fn=limited_to(limit)
        )
    assert code == 1
    assert stderr.startswith("error: cannot write to stdout: File too large\n")
    assert target.stat().st_size == limit


def test_an_array_on_stdout_is_what_is_written_to_a_file(tmp_path, file):
    _, stdout, _ = run("embed", "-q", file, file)
    (tmp_path / "stdout.npy").write_bytes(stdout)
    run("embed", "-q", file, file, "-o", tmp_path / "file.npy")
    vectors = np.load(tmp_path / "stdout.npy")
    assert (vectors == np.load(tmp_path / "file.npy")).all()


# --- stdin ----------------------------------------------------------------------------------------


def test_an_empty_stdin_that_does_not_wait_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with running("complete", "-q", "-n", "1", "--echo", stdin=reader) as process:
        os.close(reader)
        time.sleep(0.5)  # it comes to its first look; if it is late, it has an easier test
        os.write(writer, b"import ")
        os.write(writer, b"os\n")
        os.close(writer)
        assert process.stdout.read().startswith(b"import os\n")
        assert process.stderr.read() == b""
    assert process.returncode == 0


# --- stderr ---------------------------------------------------------------------------------------


@contextmanager
def unwritable(kind, tmp_path):
    """Options of Popen for a stderr that takes nothing."""
    if kind == "closed":
        yield {"stderr": None, "preexec_fn": lambda: os.close(2)}
    elif kind == "may not grow":
        with (tmp_path / "stderr").open("wb") as target:
            yield {"stderr": target, "preexec_fn": limited_to(0)}
    elif kind == "full":
        with Path("/dev/full").open("wb") as target:
            yield {"stderr": target}
    elif kind == "read-only":
        with Path(os.devnull).open("rb") as target:
            yield {"stderr": target}
    else:
        reader, writer = os.pipe()
        if kind == "gone":
            os.close(reader)
        else:
            os.set_blocking(writer, False)
            fill(writer)
        yield {"stderr": writer}


KINDS = ["closed", "may not grow", "read-only", "gone", "asleep"]
KINDS += ["full"] if Path("/dev/full").exists() else []
# Notes, warnings, reports, errors, usage errors: (exit code, arguments).
TELLING = [
    (0, ("complete", "-t", "0", "-n", "2", "--usage", "--file", "{long_file}")),
    (0, ("score", "--tokens", "{file}", "{file}")),
    (0, ("models", "default")),
    (1, ("models", "rm", "nothing", "--yes")),
    (1, ("score", "{file}.gone")),
    (2, ("complete", "--nonsense")),
    (2, ("nonsense",)),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("code", "arguments"), TELLING, ids=[" ".join(arguments) for _, arguments in TELLING]
)
def test_a_lost_message_changes_nothing_else(tmp_path, file, long_file, code, arguments, kind):
    words = [word.format(file=file, long_file=long_file) for word in arguments]
    with unwritable(kind, tmp_path) as options:
        found = run(*words, **options)
    assert found == (code, stdout_of(*words), None)


@functools.cache
def stdout_of(*arguments):
    """What is written where somebody hears the messages."""
    return run(*arguments)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_packing_goes_on_when_nobody_hears_of_it(tmp_path, kind):
    checkpoint, target = tmp_path / "tiny", tmp_path / "tiny.safetensors"
    config = small_config()
    write_checkpoint(checkpoint, config, random_tensors(config, seed=1))
    with unwritable(kind, tmp_path) as options:
        if kind == "may not grow":  # the packed file may
            options = {"stderr": options["stderr"], "preexec_fn": limited_to(100_000_000)}
        code, _, _ = run("quantize", checkpoint, "-o", target, **options)
    assert code == 0
    assert run("models", "verify", target)[0] == 0


WRITERS = {
    "print": "print('x', file=sys.stderr, flush=True)",
    "warnings": "import warnings; warnings.warn('x')",
    "logging": "import logging; logging.warning('x')",
    "rich": "from rich.console import Console; Console(stderr=True).print('x')",
    "a bar": (
        "sys.stderr.isatty = lambda: True\n"
        "from codegen_cli.terminal import drawing\n"
        "with drawing.progress('x') as advance:\n"
        "    [advance(i, 100) for i in range(100)]"
    ),
    "typer": "import typer; typer.echo('x', err=True)",
    "many bytes": "sys.stderr.write('x' * 1_000_000)",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_to_stderr_is_not_stopped(tmp_path, writer, kind):
    script = (
        "import sys\n"
        "from codegen_cli.terminal.streams import open_streams, write_line\n"
        "open_streams()\n"
        f"{WRITERS[writer]}\n"
        "write_line('done')\n"
    )
    with unwritable(kind, tmp_path) as options:
        options = {"stdout": subprocess.PIPE, "env": environment()} | options
        result = subprocess.run([sys.executable, "-c", script], check=False, timeout=120, **options)
    assert (result.returncode, result.stdout) == (0, b"done\n")


@needs_linux
def test_a_line_of_messages_is_one_write():
    """Or lines of two programs would mix: a pipe that keeps its packets apart shows them."""
    import socket

    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reader:
        with writer, running("models", "rm", "nothing", "--yes", stderr=writer) as process:
            process.wait(timeout=120)
        packets = list(iter(lambda: reader.recv(1 << 16), b""))
    assert packets
    assert all(packet.count(b"\n") == 1 and packet.endswith(b"\n") for packet in packets)


def test_a_bug_keeps_its_traceback():
    script = (
        "import sys\n"
        "from codegen_cli.commands import app\n"
        "app.console.note = app.streams.write_line = lambda text: 1 / 0\n"
        "sys.argv = ['codegen', '--version']\n"
        "from codegen_cli.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert result.returncode == 1
    assert b"ZeroDivisionError" in result.stderr


def test_a_slow_reader_of_messages_gets_them_all():
    with (
        pipe(waits=False) as (reader, writer),
        running("complete", "--nonsense", stderr=writer) as process,
    ):
        os.close(writer)
        message = read_all(reader)
    assert process.returncode == 2
    assert b"No such option: --nonsense" in message
