"""`codegen batch`: kills, pipes, full disks, and what is wrong with its files."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("compiled_kernels")

N_LINES = 300
OPTIONS = ("-m", "nano", "-n", "6", "--until", "none", "-t", "1", "--threads", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "in.jsonl"
    path.write_text("".join(f'{{"prompt": "def f{i}(x):"}}\n' for i in range(N_LINES)))
    return path


@pytest.fixture(scope="module")
def undisturbed(source, codegen):
    """What OUT holds in the end; made from stdin to stdout."""
    result = codegen("batch", *OPTIONS, "--seed", "7", stdin=source.read_bytes())
    assert result.returncode == 0
    lines = result.stderr.decode().splitlines()
    assert lines[0] == "codegen: seed 7"
    answers = map(json.loads, result.stdout.splitlines())
    n_tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    assert lines[-1].startswith(f"codegen: {N_LINES} answers, {n_tokens} tokens in ")
    assert lines[-1].endswith(" tokens/s)")
    return result.stdout


def start(source, output, *more):
    command = ["batch", str(source), "-o", str(output), *OPTIONS, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "codegen_cli", *command], stderr=subprocess.PIPE, text=True
    )


def wait_for(path, n_bytes, process):
    """Wait until a file has more than so many bytes, or a process ends."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > n_bytes:
                return
        time.sleep(0.002)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_random_moments_it_loses_nothing_and_does_nothing_twice(
    source, tmp_path, undisturbed
):
    output = tmp_path / "out.jsonl"
    chance = random.Random(os.urandom(8))
    for _ in range(3):
        process = start(source, output, "--seed", "7")
        n_bytes = output.stat().st_size if output.exists() else 0
        wait_for(output, n_bytes + chance.randrange(len(undisturbed) // 4), process)
        time.sleep(chance.random() / 50)
        process.kill()
        process.communicate()
        assert undisturbed.startswith(output.read_bytes())
        assert output.read_bytes().endswith(b"\n")
    process = start(source, output)  # the seed is kept
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert " answers" in told.splitlines()[0]
    assert output.read_bytes() == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.journal"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_tells_how_to_go_on(source, tmp_path, undisturbed, number, code):
    output = tmp_path / "out.jsonl"
    process = start(source, output, "--seed", "7")
    wait_for(output, 0, process)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == code
    n_done = output.read_bytes().count(b"\n")
    assert told.splitlines()[1] == (
        f"codegen: {output} has {n_done} of {N_LINES} answers: the same command goes on"
    )
    assert undisturbed.startswith(output.read_bytes())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_whole_lines_and_is_gone_on_from(source, tmp_path, undisturbed):
    output = tmp_path / "out.jsonl"
    script = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.argv[0] = 'codegen'\n"
        "runpy.run_module('codegen_cli', run_name='__main__')\n"
    )
    command = ["batch", str(source), "-o", str(output), *OPTIONS, "--seed", "7"]
    result = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    n_done = output.read_bytes().count(b"\n")
    assert result.stderr.splitlines()[-3:] == [
        f"codegen: {output} has {n_done} of {N_LINES} answers: the same command goes on",
        f"error: cannot write {output}: File too large",
        "hint: A limit on the size of files is in the way: see `ulimit -f`.",
    ]
    assert n_done > 0
    assert undisturbed.startswith(output.read_bytes())
    assert output.read_bytes().endswith(b"\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_is_written_to(source, codegen):
    result = codegen("batch", str(source), "-o", "/dev/full", *OPTIONS)
    assert result.returncode == 1
    assert "error: cannot write /dev/full: No space left on device" in result.stderr.decode()
    assert not Path("/dev/full.journal").exists()


def test_bad_lines_are_counted_in_the_end(codegen):
    stdin = b'{"prompt": "x", "n": 0}\n\n{"prompt": "a", "max_tokens": 2}\noops\n'
    options = ("-N", "2", "--logprobs", "1")
    result = codegen("batch", "-m", "nano", "-q", "--created", "9", *options, stdin=stdin)
    assert result.returncode == 1
    bad, fine, oops = map(json.loads, result.stdout.splitlines())
    assert bad["error"]["message"] == "n is 0, need 1 to 128"
    assert (fine["created"], len(fine["choices"])) == (9, 2)
    assert len(fine["choices"][0]["logprobs"]["top_logprobs"]) <= 2
    assert (oops["error"]["code"], oops["error"]["line"]) == ("invalid_json_line", 4)
    assert result.stderr.decode().splitlines() == [
        "error: 2 of 3 lines have an error instead of an answer",
        "hint: Each tells what is wrong in its own line of OUT: jq -c 'select(.error)' OUT",
    ]


def test_an_empty_input_is_answered_by_nothing(codegen, tmp_path):
    (tmp_path / "in").write_text("\n\n")
    result = codegen("batch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", "nano")
    assert result.returncode == 0
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("{in}", "-o", "{in}"), 2, "error: {in} is a file to read, too: {in}"),
        (("{in}", "-o", "{dir}/link"), 2, "error: {dir}/link is a file to read, too: {in}"),
        (("{dir}/none", "-o", "{dir}/out"), 1, "error: cannot read {dir}/none: No such file"),
        (("{dir}", "-o", "{dir}/out"), 1, "error: cannot read {dir}: Is a directory"),
        (("{in}", "-o", "{dir}/none/out"), 1, "error: cannot write {dir}/none/out: No such file"),
        (("{in}", "-o", "{dir}"), 1, "error: cannot write {dir}: Is a directory"),
        (("{in}", "-o", "{dir}/out", "-t", "-1"), 2, "temperature is -1.0, need a finite"),
        (("{in}", "-o", "{dir}/out", "-m", "none"), 1, "error: unknown model 'none'"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(codegen, tmp_path, arguments, code, error):
    (tmp_path / "in").write_text('{"prompt": "x"}\n')
    (tmp_path / "link").symlink_to("in")
    places = {"in": tmp_path / "in", "dir": tmp_path}
    result = codegen("batch", *(each.format(**places) for each in arguments))
    assert result.returncode == code
    assert error.format(**places) in result.stderr.decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "link"]
    assert (tmp_path / "in").read_text() == '{"prompt": "x"}\n'
