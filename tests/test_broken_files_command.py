"""Damaged and foreign files given to the commands: one error, a hint, exit code 1, no file left."""

import json
import subprocess
import sys

import pytest
from checkpoints import (
    Call,
    Global,
    pickled,
    random_tensors,
    small_config,
    write_checkpoint,
    write_zip,
)

from quantize.quantize_model import quantize


def truncate(path, n_bytes):
    path.write_bytes(path.read_bytes()[:-n_bytes])


def change_config(checkpoint, **fields):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut_weights(checkpoint):
    truncate(checkpoint / "pytorch_model.bin", 5000)


def plant_foreign_global(checkpoint):
    content = pickled(Call(Global("os system"), ("touch planted",)))
    write_zip(checkpoint / "pytorch_model.bin", {"archive/data.pkl": content})


def become_gpt2(checkpoint):
    change_config(checkpoint, model_type="gpt2")


def grow_a_layer(checkpoint):
    change_config(checkpoint, n_layer=3)


def widen_the_mlp(checkpoint):
    change_config(checkpoint, n_inner=100)


BREAKS = [
    (cut_weights, "pytorch_model.bin is truncated or damaged", "download it again"),
    (plant_foreign_global, "names 'os.system'", "A pickle can run programs"),
    (
        become_gpt2,
        "has model_type 'gpt2', need model_type 'codegen' or 'gptj'",
        "config.json of a CodeGen or GPT-J",
    ),
    (grow_a_layer, "transformer.h.2.ln_1.weight", "of one checkpoint"),
    (widen_the_mlp, "100", "of one checkpoint"),
]


@pytest.fixture
def checkpoint(tmp_path):
    config = small_config()
    return write_checkpoint(tmp_path / "tiny", config, random_tensors(config, 1), container="torch")


def assert_refused(result, message, hint):
    assert result.returncode == 1
    assert result.stdout == b""
    *notes, error, advice = result.stderr.decode().splitlines()
    assert not any("Traceback" in note for note in notes)
    assert error.startswith("error: ")
    assert message in error
    assert advice.startswith("hint: ")
    assert hint in advice


@pytest.mark.parametrize(("damage", "message", "hint"), BREAKS)
def test_a_broken_checkpoint_is_refused(codegen, checkpoint, tmp_path, damage, message, hint):
    damage(checkpoint)
    (tmp_path / "out").mkdir()
    result = codegen("quantize", str(checkpoint), "-o", str(tmp_path / "out" / "packed"))
    assert_refused(result, message, hint)
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("damage", "message", "hint"),
    [
        (lambda data: data[:-5000], "is truncated", "damaged"),
        (lambda data: data[:300], "is truncated", "damaged"),
        (
            lambda data: data.replace(b'"format_version":"1"', b'"format_version":"2"'),
            "found 2, need 1",
            "pgrade",
        ),
        (lambda data: data.replace(b'"h.0.ln_1', b'"h.0.ln_2', 1), "header", "damaged"),
    ],
)
def test_a_broken_packed_file_is_refused(codegen, checkpoint, tmp_path, damage, message, hint):
    packed = tmp_path / "packed.safetensors"
    quantize(checkpoint, packed, "int8")
    packed.write_bytes(damage(packed.read_bytes()))
    result = codegen("complete", "-q", "-m", str(packed), "x")
    assert_refused(result, message, hint)
    assert str(packed) in result.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_limit_on_file_sizes_is_an_error_that_leaves_no_file(checkpoint, tmp_path):
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from codegen_cli.__main__ import main\n"
        "main()\n"
    )
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "packed"
    command = [sys.executable, "-c", script, "quantize", str(checkpoint), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert_refused(result, f"cannot write {target}: File too large", "limit on the size of files")
    assert list((tmp_path / "out").iterdir()) == []
