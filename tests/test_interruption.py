"""Ctrl-C, SIGTERM, a closed pipe and the first compilation: the process seen from outside."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from endless import write_endless

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
    pytest.mark.usefixtures("compiled_kernels"),
]


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Arguments that go on for seconds."""
    model = write_endless(tmp_path_factory.mktemp("endless"))
    return ("-m", str(model), "-q", "-t", "1", "-n", "2000", "--until", "none", "import os\n")


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "codegen_cli", "complete", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def finish(process):
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, stderr.decode()


def test_text_arrives_while_it_is_made(endless):
    process = start(*endless)
    first = process.stdout.read(1)
    still_runs = process.poll() is None
    code, rest, stderr = finish(process)
    assert still_runs
    assert (code, stderr) == (0, "")
    assert len(first + rest) > 100


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_keeps_the_text_so_far(endless, number, expected):
    process = start(*endless)
    first = process.stdout.read(1)
    process.send_signal(number)
    code, rest, stderr = finish(process)
    assert (code, stderr) == (expected, "")
    assert first + rest


@pytest.mark.parametrize("n_samples", [1, 2])
def test_an_interrupted_run_still_writes_its_json(endless, n_samples):
    script = (
        "import os, signal, sys\n"
        "from codegen_cli.reports.completion import JsonSink\n"
        "write = JsonSink.write\n"
        "def write_and_interrupt(self, index, text):\n"
        "    write(self, index, text)\n"
        "    if text:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "JsonSink.write = write_and_interrupt\n"
        f"sys.argv = ['codegen', 'complete', '--json', '-N', '{n_samples}', '--usage']\n"
        f"sys.argv += {endless!r}\n"
        "from codegen_cli.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert result.returncode == 130
    completion = json.loads(result.stdout)
    choices = completion["choices"]
    assert [choice["index"] for choice in choices] == [*range(n_samples)]
    assert {choice["end_reason"] for choice in choices} == {"interrupted"}
    assert {choice["finish_reason"] for choice in choices} == {"length"}
    assert any(choice["text"] for choice in choices)
    assert completion["usage"]["prompt_tokens"] == 3  # those of "import os\n"
    assert completion["usage"]["completion_tokens"] > 0
    assert b"interrupted" in result.stderr


def test_a_closed_pipe_is_silent(endless):
    with start(*endless) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 1


def test_compiling_can_be_interrupted_and_leaves_no_object(tmp_path):
    process = start("-n", "1", "x", CODEGEN_HOME=str(tmp_path))
    while b"compiling kernels" not in (line := process.stderr.readline()):
        assert line
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert (code, stdout, stderr) == (130, b"", "")

    assert not [*tmp_path.rglob("*.o"), *tmp_path.rglob("*.sha256")]


def test_time_runs_while_stdin_is_awaited():
    command = [sys.executable, "-m", "codegen_cli", "complete", "--json", "--max-time", "0.5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        completion = json.loads(process.stdout.readline())  # while stdin is still open
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    assert completion["choices"][0]["end_reason"] == "time"


def test_packing_for_a_run_ends_when_time_is_up(codegen, tmp_path):
    config = small_config(vocab_size=51200)
    checkpoint = write_checkpoint(tmp_path / "tiny", config, random_tensors(config, seed=1))
    home = {"CODEGEN_HOME": str(tmp_path / "home")}
    options = ("-q", "--json", "--max-time", "0.000001", "-m", str(checkpoint), "x")
    result = codegen("complete", *options, **home)
    assert json.loads(result.stdout)["choices"][0]["end_reason"] == "time"
    [part] = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert part.name.endswith(
        ".part"
    )  # with the tensor after which time was up: the next run goes on
