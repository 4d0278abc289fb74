"""Zips, safetensors, indexes and configs with any bytes in them are read, or refused in words."""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import pickled, storage, tensor_call, write_zip
from hostile import (
    DELETED,
    NASTY,
    TINY,
    examples,
    places,
    read_checkpoint,
    read_config,
    read_safetensors,
    read_torch_zip,
    refused,
    replaced,
    write_tiny_checkpoint,
)
from hypothesis import given
from hypothesis import strategies as st

from quantize.checkpoint.reading import open_checkpoint
from quantize.containers.torch_zip import map_torch_zip
from quantize.files.errors import UserError
from quantize.files.input_file import quoted

CHANGES = st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=5)
EDITS = st.lists(
    st.tuples(st.integers(0), st.sampled_from(NASTY) | st.just(DELETED)), min_size=1, max_size=3
)


def changed(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    copy = bytearray(content)
    for place, value in changes:
        copy[place % len(copy)] = value
    return bytes(copy)


def edited(value: object, edits: list[tuple[int, object]]) -> object:
    for number, new in edits:
        if found := places(value)[1:]:
            value = replaced(value, found[number % len(found)], new)
    return value


def as_json(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def torch_zip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("torch")
    return (write_tiny_checkpoint(directory, "torch") / "pytorch_model.bin").read_bytes()


@pytest.fixture(scope="module")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("safetensors")
    return (write_tiny_checkpoint(directory) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("sharded"), "safetensors-sharded")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "file"


# --- random bytes ---------------------------------------------------------------------------------


@examples(300)
@given(changes=CHANGES, kept=st.integers(0) | st.none())
def test_a_zip_of_any_bytes_is_read_or_refused(
    torch_zip: bytes, scratch: Path, changes: list[tuple[int, int]], kept: int | None
) -> None:
    content = changed(torch_zip, changes)
    scratch.write_bytes(content if kept is None else content[: 1 + kept % len(content)])
    refused(lambda: read_torch_zip(scratch))


@examples(300)
@given(changes=CHANGES)
def test_the_list_of_entries_of_a_zip_may_say_anything(
    torch_zip: bytes, scratch: Path, changes: list[tuple[int, int]]
) -> None:
    start = torch_zip.index(b"PK\x01\x02")
    scratch.write_bytes(torch_zip[:start] + changed(torch_zip[start:], changes))
    refused(lambda: read_torch_zip(scratch))


@examples(300)
@given(changes=CHANGES, n_header=st.integers(0, 1 << 64) | st.none())
def test_a_safetensors_file_of_any_bytes_is_read_or_refused(
    safetensors: bytes, scratch: Path, changes: list[tuple[int, int]], n_header: int | None
) -> None:
    content = changed(safetensors, changes)
    if n_header is not None:
        content = struct.pack("<Q", min(n_header, (1 << 64) - 1)) + content[8:]
    scratch.write_bytes(content)
    refused(lambda: read_safetensors(scratch))


@examples(400)
@given(edits=EDITS)
def test_a_safetensors_header_may_say_anything(
    safetensors: bytes, scratch: Path, edits: list[tuple[int, object]]
) -> None:
    n_header = int.from_bytes(safetensors[:8], "little")
    text = as_json(edited(json.loads(safetensors[8 : 8 + n_header]), edits))
    scratch.write_bytes(struct.pack("<Q", len(text)) + text + safetensors[8 + n_header :])
    refused(lambda: read_safetensors(scratch))


@examples(200)
@given(edits=EDITS)
def test_an_index_may_say_anything(sharded: Path, edits: list[tuple[int, object]]) -> None:
    (index,) = sharded.glob("*.index.json")
    original = index.read_bytes()
    index.write_bytes(as_json(edited(json.loads(original), edits)))
    try:
        refused(lambda: read_checkpoint(sharded))
    finally:
        index.write_bytes(original)


@examples(600)
@given(edits=EDITS)
def test_a_config_may_say_anything(edits: list[tuple[int, object]]) -> None:
    refused(lambda: read_config(as_json(edited(TINY, edits))))


@examples(300)
@given(changes=CHANGES)
def test_a_config_of_any_bytes_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    refused(lambda: read_config(changed(json.dumps(TINY).encode(), changes)))


@pytest.mark.parametrize("field", TINY)
@pytest.mark.parametrize("value", [10**4000, -(10**4000), 1e308, -1, "64", [64], {}, True])
def test_no_number_of_a_config_is_believed(field: str, value: object) -> None:
    """Python writes 10**4000 in JSON, but would not parse much more."""
    refused(lambda: read_config(json.dumps(TINY | {field: value}).encode()))


# --- errors stay short and inert ------------------------------------------------------------------


def test_nested_values_are_quoted_short() -> None:
    value: object = "x" * 200
    for _ in range(8):
        value = [value] * 6
    assert len(quoted(value)) < 500
    assert len(quoted({str(i): value for i in range(9)})) < 500


@pytest.mark.parametrize(
    "name", ["\x1b]0;title\x07", "a\nhint: do this", "\ud800", "\u202eexe", "x" * 256]
)
def test_a_shard_whose_name_no_terminal_should_see_is_refused(sharded: Path, name: str) -> None:
    (index,) = sharded.glob("*.index.json")
    original = index.read_bytes()
    fields = json.loads(original)
    fields["weight_map"]["lm_head.bias"] = name
    index.write_bytes(as_json(fields))
    error = refused(lambda: open_checkpoint(sharded))
    index.write_bytes(original)
    assert error
    assert "places tensor 'lm_head.bias' in " in error.message


def test_the_folder_of_a_pickle_is_quoted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m", "w") as archive:
        archive.writestr("\x1b[2J\nhint: run this/data.pkl", pickled({"a": 3}))
    error = refused(lambda: map_torch_zip(tmp_path / "m"))
    assert error
    assert "'\\x1b[2J\\nhint: run this'/data.pkl in " in error.message


# --- files that promise more than they hold -------------------------------------------------------

HALF = storage("0", "F16", 12)


def write_state(path: Path, shape: tuple[int, ...], stride: tuple[int, ...]) -> Path:
    state = {"a": tensor_call(HALF, shape, stride)}
    write_zip(path, {"data.pkl": pickled(state), "data/0": bytes(24)})
    return path


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((1 << 20, 1 << 20), (0, 0)),
        ((13,), (0,)),
        ((4, 4), (0, 1)),
        ((6, 6), (1, 1)),
        ((1 << 62,), (0,)),
        ((2**63 - 1, 2**63 - 1), (0, 0)),
        ((2, 2), (2**63 - 1, 2**63 - 1)),
    ],
)
def test_a_tensor_of_more_values_than_its_storage_is_refused(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    error = refused(lambda: map_torch_zip(write_state(tmp_path / "m", shape, stride)))
    assert error
    assert "need one that stays within the 12 values of its storage" in error.message


def test_tensors_over_one_storage_do_not_grow_into_a_model(tmp_path: Path) -> None:
    """A thousand layers over the same megabyte would fill a disk."""
    write_tiny_checkpoint(tmp_path)
    numbers = storage("0", "F16", 1 << 19)
    state = {f"layer {i}": tensor_call(numbers, (1 << 19,), (1,)) for i in range(100)}
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / "pytorch_model.bin"
    write_zip(path, {"data.pkl": pickled(state), "data/0": bytes(1 << 20)})
    error = refused(lambda: open_checkpoint(tmp_path))
    assert error
    assert "has tensors of 104857600 bytes over the same " in error.message


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("entry", ["data.pkl", "data/0", "byteorder"])
def test_an_entry_in_any_compression_is_refused(tmp_path: Path, method: int, entry: str) -> None:
    bomb = {"data.pkl": pickled({}), "data/0": b"", "byteorder": b"little"} | {
        entry: bytes(1 << 20)
    }
    with zipfile.ZipFile(tmp_path / "m", "w") as archive:
        for name, content in bomb.items():
            kind = method if name == entry else zipfile.ZIP_STORED
            archive.writestr(f"m/{name}", content, kind)
    error = refused(lambda: map_torch_zip(tmp_path / "m"))
    assert error
    assert f"entry 'm/{entry}' is compressed or encrypted" in error.message


def test_a_stored_entry_that_says_it_is_a_gigabyte_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "m", (12,), (1,))
    content = bytearray((tmp_path / "m").read_bytes())
    for header, fields in ((b"PK\x03\x04", 18), (b"PK\x01\x02", 20)):
        at = content.index(header, content.index(b"m/data/0") - 60 if fields == 18 else 0)
        while b"m/data/0" not in content[at : at + 80]:
            at = content.index(header, at + 4)
        struct.pack_into("<II", content, at + fields, 1 << 30, 1 << 30)
    (tmp_path / "m").write_bytes(content)
    error = refused(lambda: map_torch_zip(tmp_path / "m"))
    assert error
    assert "is truncated: " in error.message


@pytest.mark.parametrize("patch", [b"PK\x05\x06" + bytes(18), b"PK\x06\x07" + bytes(16)])
def test_a_second_end_of_a_zip_is_refused_or_read(tmp_path: Path, patch: bytes) -> None:
    write_state(tmp_path / "m", (12,), (1,))
    content = (tmp_path / "m").read_bytes()
    for place in range(0, len(content), 7):
        (tmp_path / "m").write_bytes(content[:place] + patch + content[place:])
        refused(lambda: read_torch_zip(tmp_path / "m"))


# --- what is no file ------------------------------------------------------------------------------

FILES = ("config.json", "tokenizer.json", "model.safetensors")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


def special(path: Path, kind: str) -> None:
    path.unlink()
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "terminal": lambda: path.symlink_to("/dev/tty"),
        "directory": path.mkdir,
        "link to itself": lambda: path.symlink_to(path.name),
        "link to nothing": lambda: path.symlink_to("nothing"),
        "file of /proc": lambda: path.symlink_to("/proc/self/environ"),
        "memory of the process": lambda: path.symlink_to("/proc/self/mem"),
        "empty file": path.touch,
    }
    make[kind]()


@needs_posix
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "kind",
    (
        "pipe, device, terminal, directory, link to itself, link to nothing, "
        "file of /proc, memory of the process, empty file"
    ).split(", "),
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    write_tiny_checkpoint(tmp_path)
    special(tmp_path / name, kind)
    assert refused(lambda: open_checkpoint(tmp_path))


@needs_posix
@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "link to itself"])
def test_a_shard_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    write_tiny_checkpoint(tmp_path, "torch-sharded")
    special(tmp_path / "pytorch_model-00002-of-00002.bin", kind)
    assert refused(lambda: open_checkpoint(tmp_path))


@needs_posix
def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    """snapshots/REVISION/NAME -> ../../blobs/HASH, for shards too."""
    snapshot = tmp_path / "models--x--y" / "snapshots" / "abc"
    blobs = tmp_path / "models--x--y" / "blobs"
    blobs.mkdir(parents=True)
    write_tiny_checkpoint(snapshot, "safetensors-sharded")
    for path in list(snapshot.iterdir()):
        blob = blobs / f"{zlib.crc32(path.name.encode()):x}"
        path.rename(blob)
        path.symlink_to(Path("..", "..", "blobs", blob.name))
    read_checkpoint(snapshot)


@needs_posix
def test_a_file_that_is_replaced_by_a_pipe_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and opening; the pipe has a writer, so that opening it does not wait."""
    write_tiny_checkpoint(tmp_path)
    path = tmp_path / "tokenizer.json"
    opened = Path.open
    writers = []

    def replace_and_open(self: Path, mode: str) -> object:
        if self == path:
            special(path, "pipe")
            writers.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        return opened(self, mode)

    monkeypatch.setattr(Path, "open", replace_and_open)
    with pytest.raises(UserError, match=r"tokenizer\.json: it is not a regular file"):
        open_checkpoint(tmp_path)
    for writer in writers:
        os.close(writer)
