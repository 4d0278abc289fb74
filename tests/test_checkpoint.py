"""A checkpoint opens from every container, and says what is wrong with one that does not."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    CONTAINERS,
    DTYPES,
    TOKENIZER,
    random_tensors,
    small_config,
    stored_values,
    write_checkpoint,
    write_safetensors,
    write_torch_zip,
)

from quantize.checkpoint.reading import open_checkpoint
from quantize.containers.safetensors_map import map_safetensors
from quantize.description.config import parse_config
from quantize.description.tensor_map import match_tensors, tensor_specs
from quantize.files.errors import UserError

CONFIG = small_config()
TENSORS = random_tensors(CONFIG, 7)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", CONFIG, TENSORS)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", CONFIG, TENSORS, "safetensors-sharded")


def refusal(source: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        open_checkpoint(source)
    assert caught.value.hint
    return caught.value


def edit_index(directory: Path, edit: Callable[[dict[str, object]], object]) -> Path:
    """Change the fields of a directory's index in place; return the index."""
    (path,) = directory.glob("*.index.json")
    fields = json.loads(path.read_text(encoding="utf-8"))
    edit(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_same_values_come_from_every_container(tmp_path: Path, container: str, dtype: str) -> None:
    write_checkpoint(tmp_path, CONFIG, TENSORS, container, dtype)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == parse_config(CONFIG, "config.json")
    assert checkpoint.tokenizer.json == TOKENIZER.read_bytes()
    pairs = match_tensors(tensor_specs(checkpoint.config), checkpoint.tensors)
    assert len(pairs) == len(TENSORS)
    for spec, tensor in pairs:
        expected = stored_values(TENSORS[spec.source], dtype)
        read = tensor.read_float32()
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected)
        rows = np.empty_like(expected[3:11], np.float32)
        tensor.read_into(rows, slice(3, 3 + len(rows)))
        np.testing.assert_array_equal(rows, expected[3:11])


@pytest.mark.parametrize("container", CONTAINERS)
def test_weight_files_are_listed_with_their_size(tmp_path: Path, container: str) -> None:
    write_checkpoint(tmp_path, CONFIG, TENSORS, container)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.path == tmp_path
    assert len(checkpoint.files) == (2 if "sharded" in container else 1)
    assert checkpoint.weights_bytes == sum(path.stat().st_size for path in checkpoint.files)


def test_mask_buffers_are_dropped_and_biases_of_layers_are_not(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CONFIG, TENSORS)
    buffers = {
        f"transformer.h.1.attn.{name}": ("F32", np.zeros((2, 2), np.float32))
        for name in ("causal_mask", "bias", "masked_bias", "embed_positions")
    }
    kept = ("transformer.h.0.mlp.fc_in.bias", "transformer.h.0.attn.qkv_proj.bias", "attn.bias")
    others = {name: ("F32", np.zeros(2, np.float32)) for name in kept}
    write_safetensors(tmp_path / "model.safetensors", buffers | others)
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == set(kept)
    assert set(checkpoint.unused) == set(buffers)


def test_weight_file_opens_with_its_directory(directory: Path) -> None:
    checkpoint = open_checkpoint(directory / "model.safetensors")
    assert checkpoint.path == directory
    assert set(checkpoint.tensors) == set(TENSORS)


def test_index_file_opens_with_its_directory(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded / "model.safetensors.index.json")
    assert set(checkpoint.tensors) == set(TENSORS)


def test_given_file_is_read_whatever_its_directory_prefers(directory: Path) -> None:
    write_torch_zip(directory / "other.bin", {"a": ("F16", np.ones(2, np.float16))})
    assert set(open_checkpoint(directory / "other.bin").tensors) == {"a"}


def test_container_is_known_by_its_content_and_not_by_its_name(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert set(open_checkpoint(directory).tensors) == set(TENSORS)


def test_header_length_that_looks_like_a_brace_is_no_index(tmp_path: Path) -> None:
    """A header of 0x7B bytes makes a safetensors file begin with '{'."""
    write_checkpoint(tmp_path, CONFIG, {})
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x7B)
    content = len(header).to_bytes(8, "little") + header + b"\x05"
    assert content.startswith(b"{")
    (tmp_path / "model.safetensors").write_bytes(content)
    assert set(open_checkpoint(tmp_path).tensors) == {"a"}


def test_links_to_a_cache_are_followed(directory: Path, tmp_path: Path) -> None:
    """huggingface_hub's snapshots are links to files of other names elsewhere."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for number, path in enumerate(directory.iterdir()):
        path.rename(tmp_path / str(number))
        (snapshot / path.name).symlink_to(tmp_path / str(number))
    assert set(open_checkpoint(snapshot / "model.safetensors").tensors) == set(TENSORS)


def test_opening_and_reading_leave_the_checkpoint_as_it_is(directory: Path) -> None:
    def state() -> dict[str, tuple[bytes, int]]:
        paths = directory.iterdir()
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    before = state()
    for tensor in open_checkpoint(directory).tensors.values():
        tensor.read_float32()
    assert state() == before


def test_absent_path_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nothing")
    assert f"{tmp_path / 'nothing'} does not exist, need a checkpoint directory" in error.message


def test_path_through_a_file_is_named(directory: Path) -> None:
    source = directory / "config.json" / "model"
    error = refusal(source)
    assert error.message == f"cannot read {source}: {os.strerror(errno.ENOTDIR)}"
    assert "Check the path" in error.hint


def test_directory_without_weights_says_what_it_looked_for(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    error = refusal(directory)
    assert f"{directory} holds no weights, need one of model.safetensors" in error.message
    assert "pytorch_model.bin.index.json" in error.message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_absent_companion_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    error = refusal(directory)
    or_else = " or vocab.json and merges.txt" if name == "tokenizer.json" else ""
    assert error.message == f"{directory} holds no {name}, need it{or_else} beside the weights"
    assert f"Download {name}" in error.hint


def test_tokenizer_that_is_no_json_is_named(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{", encoding="utf-8")
    assert "tokenizer.json is not a valid JSON object" in refusal(directory).message


def test_directory_in_the_place_of_weights_is_named(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").mkdir()
    assert "model.safetensors: it is a directory" in refusal(directory).message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_in_the_place_of_weights_does_not_block(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    os.mkfifo(directory / "model.safetensors")
    assert "model.safetensors: it is not a regular file" in refusal(directory).message


def test_unreadable_file_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    error = refusal(directory)
    assert error.message == f"cannot read {directory / 'config.json'}: Permission denied"
    assert "permissions" in error.hint


def test_git_lfs_pointer_is_recognised(directory: Path) -> None:
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    error = refusal(directory)
    assert "model.safetensors is a git-lfs pointer" in error.message
    assert "git lfs pull" in error.hint


def test_unknown_content_is_shown(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"<!DOCTYPE html>")
    message = refusal(directory).message
    assert "begins with b'<!DOCTYPE html>', need a torch zip or a safetensors file" in message


@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_truncated_weights_are_named(tmp_path: Path, container: str) -> None:
    write_checkpoint(tmp_path, CONFIG, TENSORS, container)
    path = next(path for path in tmp_path.iterdir() if "model." in path.name)
    path.write_bytes(path.read_bytes()[:100_000])
    error = refusal(tmp_path)
    assert f"{path} is truncated" in error.message
    assert "download it again" in error.hint


def test_absent_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    error = refusal(sharded)
    assert "model.safetensors.index.json names 2 shards; missing: " in error.message
    assert error.message.endswith("'model-00002-of-00002.safetensors'")
    assert "Download the whole checkpoint" in error.hint


def test_tensor_absent_from_its_shard_is_named(sharded: Path) -> None:
    first = "model-00001-of-00002.safetensors"
    edit_index(sharded, lambda fields: fields["weight_map"].update({"extra.weight": first}))
    message = refusal(sharded).message
    assert f"{sharded / first} lacks tensors that model.safetensors.index.json places" in message
    assert "'extra.weight'" in message


def test_tensor_absent_from_the_index_is_named(sharded: Path) -> None:
    edit_index(sharded, lambda fields: fields["weight_map"].pop("lm_head.bias"))
    message = refusal(sharded).message
    assert "has tensors that model.safetensors.index.json does not place in it" in message
    assert message.endswith("'lm_head.bias'")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "c:x", "a\0b", 3, None],
)
def test_shard_outside_the_directory_is_refused(sharded: Path, name: object) -> None:
    edit_index(sharded, lambda fields: fields["weight_map"].update({"lm_head.bias": name}))
    message = refusal(sharded).message
    assert f"places tensor 'lm_head.bias' in {name!r}, need the name of a file" in message


@pytest.mark.parametrize("weight_map", [{}, [], None, "model.safetensors"])
def test_index_without_a_weight_map_is_refused(sharded: Path, weight_map: object) -> None:
    index = edit_index(sharded, lambda fields: fields.update(weight_map=weight_map))
    message = refusal(sharded).message
    assert f"{index}: weight_map is {weight_map!r}, need tensor names and their files" in message


def test_index_as_a_shard_of_itself_is_refused(sharded: Path) -> None:
    name = "model.safetensors.index.json"
    edit_index(sharded, lambda fields: fields.update(weight_map={"lm_head.bias": name}))
    assert "need a torch zip or a safetensors file" in refusal(sharded).message


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's /proc")
def test_tensor_that_was_read_leaves_memory(tmp_path: Path) -> None:
    values = np.ones((512, 1024), np.float32)
    write_safetensors(tmp_path / "m", {"a": ("F32", values)})
    tensor = map_safetensors(tmp_path / "m")[0]["a"]
    tensor.data.sum()
    assert resident_kib(tmp_path / "m") > 2000
    np.testing.assert_array_equal(tensor.read_float32(), values)
    assert resident_kib(tmp_path / "m") < 200


def resident_kib(path: Path) -> int:
    """How much of a mapped file counts as memory of this process."""
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))
