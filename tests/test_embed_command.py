"""`codegen embed` as a process of its own: .npy and JSON lines."""

import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import codegen_cli

TEXTS = {
    "a.py": "def add(a, b):\n    return a + b\n",
    "b.py": "import os\n",
    "c.py": "x = 1\n" * 800,
}

pytestmark = pytest.mark.usefixtures("compiled_kernels")


@pytest.fixture(scope="module")
def model():
    with codegen_cli.load("nano") as model:
        yield model


@pytest.fixture
def files(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return [str(tmp_path / name) for name in TEXTS]


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_an_array_has_a_row_for_each_file(codegen, model, files, pool):
    result = codegen("embed", "-q", "--pool", pool, *files)
    assert (result.returncode, result.stderr) == (0, b"")
    vectors = np.load(io.BytesIO(result.stdout), allow_pickle=False)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, [model.embed(text, pool) for text in TEXTS.values()])


def test_an_array_can_be_written_to_a_file(codegen, model, files, tmp_path):
    target = tmp_path / "vectors"  # no suffix is added
    result = codegen("embed", "-q", "-o", str(target), files[0])
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert np.array_equal(np.load(target), [model.embed(TEXTS["a.py"])])


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_file_stays_as_it_was_until_the_new_one_is_whole(files, tmp_path):
    target = tmp_path / "vectors.npy"
    target.write_bytes(b"old")
    long = tmp_path / "long.py"
    long.write_text("".join(f"value_{i} = {i}\n" for i in range(100_000)))
    before = set(tmp_path.iterdir())
    command = [sys.executable, "-m", "codegen_cli", "embed", "-o", str(target), files[0], str(long)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while set(tmp_path.iterdir()) == before and process.poll() is None:
        time.sleep(0.01)
    assert target.read_bytes() == b"old"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert set(tmp_path.iterdir()) == before
    assert target.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_link_stays_and_a_device_is_written_to(codegen, model, files, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    result = codegen("embed", "-q", "-o", str(tmp_path / "link"), files[0])
    assert result.returncode == 0
    assert (tmp_path / "link").is_symlink()
    expected = [model.embed(TEXTS["a.py"])]
    assert np.array_equal(np.load(tmp_path / "behind"), expected)
    result = codegen("embed", "-q", "-o", "/dev/stdout", files[0])
    assert np.array_equal(np.load(io.BytesIO(result.stdout)), expected)


def test_json_is_an_object_a_line(codegen, model, files, tmp_path):
    result = codegen("embed", "-q", "--json", *files)
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["file"] for line in lines] == files
    assert {(line["model"], line["pool"]) for line in lines} == {("nano:int8", "mean")}
    for line, text in zip(lines, TEXTS.values(), strict=True):
        assert np.array_equal(np.array(line["embedding"], np.float32), model.embed(text))
    target = tmp_path / "vectors.jsonl"
    codegen("embed", "-q", "--json", "-o", str(target), *files)
    assert target.read_bytes() == result.stdout


def test_a_dash_is_stdin(codegen, model):
    result = codegen("embed", "-q", "-", stdin=TEXTS["a.py"].encode())
    assert np.array_equal(np.load(io.BytesIO(result.stdout)), [model.embed(TEXTS["a.py"])])


def test_a_long_file_says_how_it_is_read(codegen, model, files):
    n_positions, stride = model.config.n_positions, model.config.n_positions // 2
    for pool in ("mean", "last"):
        notes = codegen("embed", "--pool", pool, *files).stderr.decode()
        assert f"windows of {n_positions}, each {stride} further than the one before" in notes


def test_an_empty_file_is_an_error_before_any_result(codegen, tmp_path, files):
    (tmp_path / "empty").touch()
    result = codegen("embed", "-q", "--json", files[0], str(tmp_path / "empty"))
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"empty is empty: it has no hidden states" in result.stderr


def test_a_target_that_cannot_be_written_is_an_error_before_the_model_loads(
    codegen, files, tmp_path
):
    for target, reason in (
        (tmp_path, "it is a directory"),
        (tmp_path / "no" / "x", "no directory"),
    ):
        result = codegen("embed", "-m", "missing", "-o", str(target), files[0])
        assert result.returncode == 1
        assert f"cannot write {target}: " in result.stderr.decode()
        assert reason in result.stderr.decode()


def test_another_pool_is_wrong_usage(codegen, files):
    result = codegen("embed", "--pool", "max", files[0])
    assert result.returncode == 2
    assert b"--pool" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_no_binary(files):
    import os
    import pty

    terminal, stdout = pty.openpty()
    try:
        command = [sys.executable, "-m", "codegen_cli", "embed", files[0]]
        result = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(terminal)
        os.close(stdout)
    assert result.returncode == 2
    assert b"a .npy file is binary" in result.stderr
