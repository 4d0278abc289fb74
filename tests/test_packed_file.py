"""A packed file says what it holds, is believed only where that is true, and is written whole."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import safetensors_bytes, small_config, write_safetensors
from safetensors import safe_open

from quantize.description.config import parse_config
from quantize.description.tensor_map import tensor_specs
from quantize.files.errors import UserError
from quantize.packed.layout import payload_bytes
from quantize.packed.packed_file import read_packed_file
from quantize.packed.packed_header import is_packed_file
from quantize.packed.packed_writer import ModelDescription, TensorEntry, write_packed_file
from quantize.rounding.groups import Bytes

TOKENIZER_JSON = b'{"version": "1.0"}'
FORMATS = ("int8", "int4", "f16")


def description(format: str = "int8", **changes: object) -> ModelDescription:
    config = parse_config(small_config(**changes), "a test")
    return ModelDescription(config, format, "tiny", TOKENIZER_JSON, {"source": "a test"})


def entries_of(model: ModelDescription) -> list[TensorEntry]:
    return [
        TensorEntry(spec.name, model.format if spec.kind == "matrix" else "f32", spec.shape)
        for spec in tensor_specs(model.config)
    ]


def random_payloads(model: ModelDescription) -> Iterator[Bytes]:
    random = np.random.RandomState(3)
    for entry in entries_of(model):
        n_bytes = payload_bytes(entry.format, entry.shape)
        yield random.randint(0, 256, n_bytes).astype(np.uint8)


def write(path: Path, format: str = "int8", **changes: object) -> Path:
    model = description(format, **changes)
    size_bytes = write_packed_file(path, model, entries_of(model), random_payloads(model))
    assert path.stat().st_size == size_bytes
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.safetensors")


def header_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        read_packed_file(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def forge(path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change a file's header and its tensors' declarations, and state the hash that then fits."""
    content, header = path.read_bytes(), json.loads(header_of(path))
    metadata = header["__metadata__"]
    declared = json.loads(metadata["tensors"])
    edit(header, declared)
    metadata["tensors"] = json.dumps(declared)
    metadata["header_sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    digits = hashlib.sha256(text).hexdigest().encode()
    text = text.replace(b'"header_sha256":"' + b"0" * 64, b'"header_sha256":"' + digits)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + len(header_of(path)) :])


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("is_tied", [False, True])
def test_what_was_written_is_read(tmp_path: Path, format: str, is_tied: bool) -> None:
    path = write(tmp_path / "m", format, tie_word_embeddings=is_tied)
    model = description(format, tie_word_embeddings=is_tied)
    packed = read_packed_file(path)
    assert (packed.path, packed.config, packed.format) == (path, model.config, format)
    assert (packed.name, packed.tokenizer_json) == ("tiny", TOKENIZER_JSON)
    assert packed.provenance == {"source": "a test"}
    found = [(t.name, t.format, t.shape) for t in packed.tensors.values()]
    assert found == [(e.name, e.format, e.shape) for e in entries_of(model)]
    assert ("lm_head.weight" in packed.tensors) == (not is_tied)
    for tensor, payload in zip(packed.tensors.values(), random_payloads(model), strict=True):
        assert np.array_equal(tensor.payload, payload)


def test_payloads_are_read_only_views_at_multiples_of_64(packed: Path) -> None:
    for tensor in read_packed_file(packed).tensors.values():
        assert not tensor.payload.flags.writeable
        assert not tensor.payload.flags.owndata
        assert tensor.payload.ctypes.data % 64 == 0


def test_the_safetensors_library_reads_equal_bytes_and_metadata(packed: Path) -> None:
    ours = read_packed_file(packed)
    with safe_open(packed, framework="numpy") as theirs:
        assert set(theirs.keys()) == {"tokenizer.json", *ours.tensors}
        for name, tensor in ours.tensors.items():
            assert np.array_equal(theirs.get_tensor(name), tensor.payload)
        tokenizer = theirs.get_tensor("tokenizer.json").tobytes()
        assert tokenizer == TOKENIZER_JSON.ljust(64, b"\0")
        metadata = theirs.metadata()
    assert metadata["format"] == "codegen-packed"
    assert metadata["format_version"] == "1"
    assert json.loads(metadata["config"])["n_embd"] == 64


def test_hashes_are_of_the_header_and_of_each_padded_payload(packed: Path) -> None:
    header = header_of(packed)
    metadata = json.loads(header)["__metadata__"]
    stated = metadata["header_sha256"].encode()
    assert hashlib.sha256(header.replace(stated, b"0" * 64)).hexdigest().encode() == stated
    tensors = read_packed_file(packed).tensors
    declared = json.loads(metadata["tensors"])
    assert list(declared) == ["tokenizer.json", *tensors]
    for name, tensor in tensors.items():
        assert declared[name]["sha256"] == tensor.sha256
        assert hashlib.sha256(tensor.payload.tobytes()).hexdigest() == tensor.sha256
    padded = TOKENIZER_JSON.ljust(64, b"\0")
    assert declared["tokenizer.json"]["sha256"] == hashlib.sha256(padded).hexdigest()


def test_the_file_begins_with_its_magic_and_version(packed: Path) -> None:
    magic = b'{"__metadata__":{"format":"codegen-packed","format_version":"1","header_sha256":"'
    assert packed.read_bytes()[8:].startswith(magic)


def test_a_names_characters_survive(tmp_path: Path) -> None:
    model = description()
    name = 'naïve "模型"\n'
    model = ModelDescription(model.config, "int8", name, TOKENIZER_JSON, {"source": name})
    write_packed_file(tmp_path / "m", model, entries_of(model), random_payloads(model))
    packed = read_packed_file(tmp_path / "m")
    assert (packed.name, packed.provenance["source"]) == (name, name)


# --- what is believed -----------------------------------------------------------------------------


def test_only_packed_files_are_recognised(packed: Path, tmp_path: Path) -> None:
    assert is_packed_file(packed)
    write_safetensors(tmp_path / "other", {"w": ("F16", np.ones(4, np.float16))})
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(packed.read_bytes()[:50])
    for name in ("other", "empty", "short", "absent", "."):
        assert not is_packed_file(tmp_path / name)


def test_another_safetensors_file_is_refused_with_what_was_found(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m", {"w": ("F16", np.ones(4, np.float16))})
    error = refusal(tmp_path / "m")
    assert "is not a packed model: found" in error.message
    assert "codegen-packed" in error.message
    assert "codegen quantize" in error.hint


@pytest.mark.parametrize("name", ["absent", "empty", "directory"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    refusal(tmp_path / name)


@pytest.mark.parametrize("version", ["2", "10", "", "one"])
def test_another_version_is_refused_before_its_hash_is_judged(packed: Path, version: str) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content.replace(b'_version":"1"', f'_version":"{version}"'.encode(), 1))
    error = refusal(packed)
    assert f"found {version}, need 1" in error.message
    assert "Upgrade codegen-complete" in error.hint
    assert is_packed_file(packed)


def test_no_flipped_bit_of_the_header_goes_unseen(packed: Path) -> None:
    content = packed.read_bytes()
    for place in range(8, 8 + len(header_of(packed)), 41):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        packed.write_bytes(flipped)
        refusal(packed)


def test_a_changed_number_is_told_by_the_hash(packed: Path) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content.replace(rb"\"rotary_dim\":8", rb"\"rotary_dim\":6", 1))
    message = refusal(packed).message
    assert re.search(r"SHA-256 of the header: found [0-9a-f]{64}, need b'[0-9a-f]{64}'", message)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(packed: Path, kept: float) -> None:
    content = packed.read_bytes()
    n_bytes = int(kept * len(content)) if 0 < kept < 1 else int(kept)
    packed.write_bytes(content[:n_bytes])
    refusal(packed)


def test_truncation_names_both_sizes(packed: Path) -> None:
    size_bytes, n_header = packed.stat().st_size, len(header_of(packed))
    os.truncate(packed, size_bytes - 64)
    need = f"{size_bytes - 72 - n_header} bytes of tensors, need {size_bytes - 8 - n_header}"
    assert f"is truncated: {need}" in refusal(packed).message
    os.truncate(packed, n_header)
    assert f"{n_header} bytes, need {8 + n_header} for its header" in refusal(packed).message


def test_bytes_after_the_last_payload_are_refused(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes() + b"\0" * 64)
    assert "bytes of tensors, need" in refusal(packed).message


def test_a_header_length_beyond_the_file_is_refused(packed: Path) -> None:
    content = packed.read_bytes()
    packed.write_bytes((2**63).to_bytes(8, "little") + content[8:])
    assert f"need {2**63 + 8} for its header" in refusal(packed).message


FC_IN = "h.0.mlp.fc_in.weight"


def replace_key(items: dict[str, Any], old: str, new: str) -> None:
    changed = {new if key == old else key: value for key, value in items.items()}
    items.clear()
    items.update(changed)


def swap_first_two_norms(header: dict[str, Any], declared: dict[str, Any]) -> None:
    for items in (header, declared):
        replace_key(items, "h.0.ln_1.weight", "?")
        replace_key(items, "h.0.ln_1.bias", "h.0.ln_1.weight")
        replace_key(items, "?", "h.0.ln_1.bias")


FORGERIES = {
    "a shape that its payload would fit": (
        lambda header, declared: declared[FC_IN].update(shape=[128, 128]),
        r"shape of h.0.mlp.fc_in.weight: found \[128, 128\], need \[256, 64\]",
    ),
    "a shape of no numbers": (
        lambda header, declared: declared[FC_IN].update(shape="all"),
        r"shape of h.0.mlp.fc_in.weight: found all, need \[256, 64\]",
    ),
    "another format": (
        lambda header, declared: declared[FC_IN].update(format="int4"),
        r"payload of h.0.mlp.fc_in.weight: found U8 \[17408\], need U8 \[9216\]",
    ),
    "an unknown format": (
        lambda header, declared: declared[FC_IN].update(format="int3"),
        "format of h.0.mlp.fc_in.weight: found int3, need int8 or int4 or f16",
    ),
    "a vector as a matrix": (
        lambda header, declared: declared["ln_f.bias"].update(format="f16"),
        "format of ln_f.bias: found f16, need f32",
    ),
    "a matrix as a vector": (
        lambda header, declared: declared[FC_IN].update(format="f32"),
        "format of h.0.mlp.fc_in.weight: found f32, need",
    ),
    "no hash": (
        lambda header, declared: declared[FC_IN].pop("sha256"),
        "sha256 of h.0.mlp.fc_in.weight: found None, need 64 digits",
    ),
    "a declaration of no fields": (
        lambda header, declared: declared.update({FC_IN: []}),
        "format of h.0.mlp.fc_in.weight: found None, need",
    ),
    "a tensor less": (
        lambda header, declared: declared.pop(FC_IN),
        "does not hold the tensors of its config: missing 'h.0.mlp.fc_in.weight'",
    ),
    "a tensor more": (
        lambda header, declared: declared.update(x=declared[FC_IN]),
        "does not hold the tensors of its config: surplus 'x'",
    ),
    "a renamed payload": (
        lambda header, declared: replace_key(header, FC_IN, "x"),
        "missing 'h.0.mlp.fc_in.weight', surplus 'x'",
    ),
    "another order": (swap_first_two_norms, "they are in another order"),
    "signed bytes": (
        lambda header, declared: header[FC_IN].update(dtype="I8"),
        r"payload of h.0.mlp.fc_in.weight: found I8 \[17408\], need U8 \[17408\]",
    ),
    "other units": (
        lambda header, declared: header[FC_IN].update(dtype="F16", shape=[17408 // 2]),
        r"payload of h.0.mlp.fc_in.weight: found F16 \[8704\], need U8 \[17408\]",
    ),
    "a longer tokenizer": (
        lambda header, declared: declared["tokenizer.json"].update(shape=[65]),
        r"payload of tokenizer.json: found U8 \[64\], need U8 \[128\]",
    ),
    "a tokenizer of negative length": (
        lambda header, declared: declared["tokenizer.json"].update(shape=[-1]),
        "tokenizer.json: found .*, need a shape of one size",
    ),
    "a tokenizer of no length": (
        lambda header, declared: declared["tokenizer.json"].update(shape=[]),
        "tokenizer.json: found .*, need a shape of one size",
    ),
    "more layers than tensors": (
        lambda header, declared: header["__metadata__"].update(
            config=json.dumps(small_config(n_layer=3))
        ),
        "missing 'h.2.ln_1.weight'",
    ),
    "another architecture": (
        lambda header, declared: header["__metadata__"].update(config='{"model_type": "gpt2"}'),
        "model_type 'gpt2', need model_type 'codegen' or 'gptj'",
    ),
    "a config that is no JSON": (
        lambda header, declared: header["__metadata__"].update(config="{"),
        "the metadata config of .* is not a valid JSON object",
    ),
    "no config": (
        lambda header, declared: header["__metadata__"].pop("config"),
        "metadata config: found None, need a text",
    ),
    "no known format of the weights": (
        lambda header, declared: header["__metadata__"].update(weight_format="int2"),
        "weight_format: found int2, need int8 or int4 or f16",
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_header_with_a_true_hash_is_refused(packed: Path, kind: str) -> None:
    edit, message = FORGERIES[kind]
    forge(packed, edit)
    assert re.search(message, refusal(packed).message)


def test_forging_nothing_leaves_a_valid_file(packed: Path) -> None:
    forge(packed, lambda header, declared: None)
    read_packed_file(packed)


def test_data_that_starts_off_a_multiple_of_64_is_refused(packed: Path) -> None:
    content, header = packed.read_bytes(), header_of(packed)
    stated = json.loads(header)["__metadata__"]["header_sha256"].encode()
    longer = header.replace(stated, b"0" * 64) + b" " * 8
    longer = longer.replace(b"0" * 64, hashlib.sha256(longer).hexdigest().encode(), 1)
    packed.write_bytes(len(longer).to_bytes(8, "little") + longer + content[8 + len(header) :])
    found = f"found {16 + len(header)}, need a multiple of 64"
    assert f"start of the data: {found}" in refusal(packed).message


def test_reading_imports_nothing_heavier_than_numpy() -> None:
    code = """
import sys, quantize.packed.packed_file
heavy = {"numba", "torch", "safetensors", "tokenizers", "huggingface_hub", "rich", "typer"}
sys.exit(bool(heavy & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- how it is written ----------------------------------------------------------------------------


def write_refusal(target: Path, sources: tuple[Path, ...] = ()) -> UserError:
    """Writing is refused, naming the target; nothing is left beside what was there."""
    directory = target.parent
    before = sorted(directory.iterdir()) if directory.is_dir() else []
    model = description()
    with pytest.raises(UserError) as caught:
        write_packed_file(target, model, entries_of(model), random_payloads(model), sources)
    assert f"cannot write {target}: " in caught.value.message
    assert caught.value.hint
    assert (sorted(directory.iterdir()) if directory.is_dir() else []) == before
    return caught.value


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), OSError("theirs")])
def test_an_error_while_writing_leaves_the_old_file_and_no_other(
    packed: Path, error: BaseException
) -> None:
    before = packed.read_bytes()
    model = description("f16")

    def payloads() -> Iterator[Bytes]:
        yield next(random_payloads(model))
        assert len(list(packed.parent.iterdir())) == 2
        raise error

    with pytest.raises(type(error)) as caught:
        write_packed_file(packed, model, entries_of(model), payloads())
    assert caught.value is error
    assert packed.read_bytes() == before
    assert list(packed.parent.iterdir()) == [packed]


def test_the_old_file_is_replaced_only_when_the_new_one_is_whole(packed: Path) -> None:
    before = packed.read_bytes()
    model = description("f16")

    def payloads() -> Iterator[Bytes]:
        for payload in random_payloads(model):
            assert packed.read_bytes() == before
            yield payload

    write_packed_file(packed, model, entries_of(model), payloads())
    assert read_packed_file(packed).format == "f16"
    assert list(packed.parent.iterdir()) == [packed]


def test_a_directory_is_refused_as_target(tmp_path: Path) -> None:
    error = write_refusal(tmp_path)
    assert "Is a directory" in error.message
    assert "path of a file" in error.hint


def test_a_target_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "Not a directory" in write_refusal(tmp_path / "file" / "m").message


def test_a_target_in_no_directory_is_refused(tmp_path: Path) -> None:
    error = write_refusal(tmp_path / "absent" / "m")
    assert "No such file or directory" in error.message
    assert "Create the directory" in error.hint


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in write_refusal(tmp_path / "m").message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_as_target_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in write_refusal(tmp_path / "pipe").message
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("link", ["itself", "hard link", "symbolic link"])
def test_a_source_is_refused_as_target(tmp_path: Path, link: str) -> None:
    source = tmp_path / "model.safetensors"
    source.write_bytes(safetensors_bytes({}))
    target = source if link == "itself" else tmp_path / "other"
    if link == "hard link":
        target.hardlink_to(source)
    if link == "symbolic link":
        target.symlink_to(source)
    model = description()
    with pytest.raises(UserError, match=r"cannot write .*: it is being read from"):
        write_packed_file(target, model, entries_of(model), random_payloads(model), (source,))
    assert source.read_bytes() == safetensors_bytes({})


def test_a_disk_one_byte_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_bytes = write(tmp_path / "m").stat().st_size
    usage = shutil.disk_usage(tmp_path)._replace(free=need_bytes - 1)
    monkeypatch.setattr("quantize.packed.packed_writer.shutil.disk_usage", lambda path: usage)
    error = write_refusal(tmp_path / "n")
    assert "its disk has 0.1 MB free, need 0.1 MB" in error.message
    assert "Free some space" in error.hint
    usage = usage._replace(free=need_bytes)
    write(tmp_path / "n")


def test_a_disk_that_fills_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("quantize.packed.packed_writer.os.fsync", fail)
    error = write_refusal(tmp_path / "m")
    assert "No space left on device" in error.message
    assert "Free some space" in error.hint


@pytest.mark.parametrize("missing_bytes", [100_000, 32])
def test_a_file_size_limit_is_told_and_leaves_no_file(tmp_path: Path, missing_bytes: int) -> None:
    # With 32 bytes too few a part of the last payload is written before the limit is met.
    pytest.importorskip("resource")
    limit_bytes = write(tmp_path / "whole").stat().st_size - missing_bytes
    code = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
from test_packed_file import write_refusal
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))
error = write_refusal(Path({str(tmp_path / "m")!r}))
assert "File too large" in error.message, error.message
assert "ulimit -f" in error.hint
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "whole"]


def test_a_symbolic_link_stays_and_its_file_is_replaced(packed: Path) -> None:
    link = packed.with_name("link")
    link.symlink_to(packed.name)
    write(link, "f16")
    assert link.is_symlink()
    assert read_packed_file(packed).format == "f16"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_permissions_are_those_of_any_new_file(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    assert packed.stat().st_mode == (tmp_path / "plain").stat().st_mode
