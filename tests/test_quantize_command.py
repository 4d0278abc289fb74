"""`codegen quantize` as a process of its own, and running what was never packed."""

import json
import os
import re

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from quantize.packed.packed_file import read_packed_file

RUN = ("-t", "0", "-n", "4", "--until", "none", "def f(")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model with the real tokenizer's vocabulary."""
    directory = tmp_path_factory.mktemp("checkpoints") / "tiny"
    config = small_config(vocab_size=51200, n_positions=64)
    return write_checkpoint(directory, config, random_tensors(config, seed=3), container="torch")


@pytest.fixture
def fresh_home(home, tmp_path, compiled_kernels):
    """An empty home that shares the session's compiled kernels."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(home / "cache")
    return {"CODEGEN_HOME": str(tmp_path / "home")}


def test_the_first_packed_model_becomes_the_default(codegen, checkpoint, fresh_home):
    result = codegen("quantize", str(checkpoint), "--format", "int4", **fresh_home)
    assert result.returncode == 0
    assert result.stdout == b""
    again = codegen("quantize", str(checkpoint), "--format", "int8", **fresh_home)
    assert b"default" not in again.stderr
    assert codegen("complete", "--json", *RUN, **fresh_home).stderr == b""
    completion = json.loads(codegen("complete", "--json", *RUN, **fresh_home).stdout)
    assert completion["model"] == "tiny:int4"


def test_a_log_gets_a_start_and_an_end_with_the_worst_tensor(
    codegen, checkpoint, fresh_home, tmp_path
):
    target = str(tmp_path / "x.safetensors")
    result = codegen("quantize", str(checkpoint), "-o", target, **fresh_home)
    packing, packed, left_out = result.stderr.decode().splitlines()
    assert packing == f"codegen: packing {checkpoint} as int8"
    assert re.search(r"bits per weight, worst \S+weight \(0\.\d\d%\)", packed)
    assert left_out.startswith("codegen: left out")


def test_verbose_tells_the_error_of_every_matrix(codegen, checkpoint, fresh_home, tmp_path):
    arguments = ("quantize", "-v", str(checkpoint), "-o", str(tmp_path / "x.safetensors"))
    report = codegen(*arguments, **fresh_home).stderr.decode()
    tensors = re.findall(r"^codegen: \[ *\d+/\d+\] (\S+) .* int8 error 0\.\d\d%$", report, re.M)
    assert len(tensors) == 2 + 4 * 2
    assert "h.0.attn.qkv_proj.weight" in tensors
    assert codegen(*arguments, "-q", **fresh_home).stderr == b""


def test_a_packed_file_runs_from_anywhere(codegen, checkpoint, fresh_home, tmp_path):
    target = tmp_path / "deep" / "mine.safetensors"
    result = codegen("quantize", "-q", str(checkpoint), "-o", str(target), **fresh_home)
    assert (result.returncode, result.stderr) == (0, b"")
    assert read_packed_file(target).format == "int8"
    assert codegen("complete", "-m", str(target), *RUN, **fresh_home).returncode == 0


def test_only_a_model_in_the_models_directory_becomes_the_default_by_itself(
    codegen, checkpoint, fresh_home, tmp_path
):
    elsewhere = tmp_path / "elsewhere" / "t.safetensors"
    result = codegen("quantize", str(checkpoint), "-o", str(elsewhere), **fresh_home)
    assert result.returncode == 0
    assert b"default" not in result.stderr
    elsewhere.unlink()
    assert codegen("models", "default", **fresh_home).stdout == b"nano\n"
    target = tmp_path / "home" / "models" / "mine.int8.safetensors"
    assert codegen("quantize", str(checkpoint), "-o", str(target), **fresh_home).returncode == 0
    assert codegen("models", "default", **fresh_home).stdout == b"mine\n"


def test_settings_that_cannot_be_changed_do_not_undo_the_packing(
    codegen, checkpoint, fresh_home, tmp_path
):
    (tmp_path / "home" / "settings.json").write_text("{oops")
    result = codegen("quantize", "-q", str(checkpoint), **fresh_home)
    assert result.returncode == 0
    assert b"codegen: the default model stays as it is: cannot use" in result.stderr
    assert (tmp_path / "home" / "models" / "tiny.int8.safetensors").is_file()


def test_an_unpacked_checkpoint_is_packed_once_and_run(codegen, checkpoint, fresh_home):
    first = codegen("complete", "-m", str(checkpoint), *RUN, **fresh_home)
    assert first.returncode == 0
    assert b"packing" in first.stderr
    second = codegen("complete", "-m", str(checkpoint), *RUN, **fresh_home)
    assert second.stderr == b""
    assert second.stdout == first.stdout
    os.utime(checkpoint / "pytorch_model.bin")
    assert b"packing" in codegen("complete", "-m", str(checkpoint), *RUN, **fresh_home).stderr


def test_a_file_that_is_no_packed_model_is_never_overwritten(codegen, checkpoint, tmp_path):
    precious = tmp_path / "notes.txt"
    precious.write_text("keep me")
    result = codegen("quantize", str(checkpoint), "-o", str(precious))
    assert result.returncode == 1
    assert f"{precious} exists and is not a packed model" in result.stderr.decode()
    assert precious.read_text() == "keep me"


@pytest.mark.parametrize(
    ("source", "options", "code", "message"),
    [
        ("350M-mono", (), 1, "350M-mono is not on this machine"),
        ("350M-nomo", (), 1, "Did you mean 350M-mono"),
        ("nano", (), 1, "nano is packed already"),
        ("/dev/null/x", (), 1, "Not a directory"),
        ("{checkpoint}", ("--format", "int3"), 2, "int3"),
        ("{checkpoint}", ("-o", "/dev/null/x/y"), 1, "Not a directory"),
        ("{checkpoint}", ("-o", "{checkpoint}"), 1, "{checkpoint}"),
    ],
)
def test_bad_requests_name_what_was_found(codegen, checkpoint, source, options, code, message):
    def fill(text):
        return text.replace("{checkpoint}", str(checkpoint))

    before = sorted(checkpoint.iterdir())
    result = codegen("quantize", fill(source), *map(fill, options))
    assert result.returncode == code
    assert fill(message) in result.stderr.decode()
    assert b"Traceback" not in result.stderr
    assert sorted(checkpoint.iterdir()) == before
