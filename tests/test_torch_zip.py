"""A torch zip is read without running anything in it, and only where it is sound."""

import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    Call,
    Global,
    pickled,
    storage,
    tensor_call,
    write_torch_zip,
    write_zip,
)

from quantize.containers.torch_zip import map_torch_zip
from quantize.files.errors import UserError

DATA = Path(__file__).parent / "data"
NUMBERS = np.arange(12, dtype=np.float16)


def write_state(path: Path, state: object, **entries: bytes) -> Path:
    """A torch zip of this state dict over a storage "0" of the 12 NUMBERS."""
    contents = {"data.pkl": pickled(state), "data/0": NUMBERS.tobytes()} | entries
    write_zip(path, contents)
    return path


def one_tensor(shape: object, stride: object, offset: object = 0) -> dict[str, object]:
    return {"a": tensor_call(storage("0", "F16", 12), shape, stride, offset)}


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        map_torch_zip(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def test_tensors_of_every_storage_are_read(path: Path) -> None:
    random = np.random.RandomState(5)
    arrays = {
        "half": ("F16", random.standard_normal((4, 6)).astype(np.float16)),
        "float": ("F32", random.standard_normal((2, 3, 2)).astype(np.float32)),
        "brain": ("BF16", np.array([0x3F80, 0xC020], np.uint16)),
        "mask": ("U8", np.tril(np.ones((1, 1, 5, 5), np.uint8))),
        "flags": ("BOOL", np.array([0, 1, 1], np.uint8)),
        "scalar": ("F32", np.array(-1e9, np.float32)),
    }
    write_torch_zip(path, arrays)
    tensors = map_torch_zip(path)
    assert list(tensors) == list(arrays)
    for name, (dtype, values) in arrays.items():
        assert (tensors[name].dtype, tensors[name].shape) == (dtype, values.shape)
        np.testing.assert_array_equal(tensors[name].data, values)
        assert not tensors[name].data.flags.writeable
    np.testing.assert_array_equal(tensors["brain"].read_float32(), [1, -2.5])
    np.testing.assert_array_equal(tensors["scalar"].read_float32(), np.float32(-1e9))
    half = arrays["half"][1].astype(np.float32)
    np.testing.assert_array_equal(tensors["half"].read_float32(slice(1, 3)), half[1:3])


def test_views_of_one_storage_are_read_as_torch_places_them(path: Path) -> None:
    of = storage("0", "F16", 12)
    state = {
        "whole": tensor_call(of, (3, 4), (4, 1)),
        "transposed": tensor_call(of, (4, 3), (1, 4)),
        "part": tensor_call(of, (2, 2), (4, 2), 5),
        "repeated": tensor_call(of, (3, 2), (0, 1), 10),
        "none": tensor_call(of, (0, 4), (4, 1), 12),
    }
    tensors = map_torch_zip(write_state(path, state))
    whole = NUMBERS.reshape(3, 4).astype(np.float32)
    expected = {
        "whole": whole,
        "transposed": whole.T,
        "part": whole[1:, 1::2],
        "repeated": np.broadcast_to(whole.reshape(-1)[10:], (3, 2)),
        "none": np.zeros((0, 4)),
    }
    for name, values in expected.items():
        read = tensors[name].read_float32()
        np.testing.assert_array_equal(read, values)
        assert read.flags.c_contiguous


def test_a_file_of_torch_itself_is_read() -> None:
    """What torch 2.13 saved of a state dict: sizes behind the data, entries of its own, zip64."""
    tensors = map_torch_zip(DATA / "torch_2_13.bin")
    whole = NUMBERS.reshape(3, 4).astype(np.float32)
    floats = {
        "half": whole,
        "transposed": whole.T,
        "row": whole[1],
        "bf16": whole,
        "float": whole,
        "scalar": 7.5,
        "parameter": [[3, 3]],
    }
    for name, values in floats.items():
        np.testing.assert_array_equal(tensors[name].read_float32(), values)
    np.testing.assert_array_equal(tensors["byte"].data, np.ones((2, 2)))
    np.testing.assert_array_equal(tensors["bool"].data, [1, 0])
    assert tensors.keys() == {*floats, "byte", "bool"}


def write_4_gigabytes(path: Path) -> None:
    """Two storages of 3 GB each, of which the disk holds little, and the pickle behind them."""
    n_values = 3 << 29
    state = {
        name: tensor_call(storage(name, "F16", n_values), (2,), (1,), n_values - 2) for name in "ab"
    }
    entries = {"data/a": None, "data/b": None, "data.pkl": pickled(state)}
    listed, n_entries = b"", len(entries)
    with path.open("wb") as file:
        for name, content in entries.items():
            start, full_name = file.tell(), f"{path.stem}/{name}".encode()
            size = 2 * n_values if content is None else len(content)
            sizes = (0, size, size, len(full_name))
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, *sizes, 0) + full_name)
            if content is None:
                file.seek(size - 4, os.SEEK_CUR)
                content = np.array([3, ord(name[-1])], "<f2").tobytes()
            file.write(content)
            extra = struct.pack("<2HQ", 1, 8, start)  # where the entry begins, in 64 bits
            listed += struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 45, 45, *[0] * 4, *sizes, 12, *[0] * 4, 0xFFFFFFFF
            )
            listed += full_name + extra
        start = file.tell()
        end = struct.pack("<2Q", len(listed), start)
        file.write(listed)
        file.write(struct.pack("<4sQ2H2L2Q", b"PK\6\6", 44, 45, 45, 0, 0, *[n_entries] * 2) + end)
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + len(listed), 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0))


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes")
def test_entries_beyond_4_gigabytes_are_read(path: Path) -> None:
    """CodeGen 16B is one file of 32 GB."""
    write_4_gigabytes(path)
    tensors = map_torch_zip(path)
    for name in "ab":
        assert tensors[name].read_float32().tolist() == [3, ord(name)]
    path.unlink()


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((13,), (1,), 0),
        ((12,), (1,), 1),
        ((3, 4), (5, 1), 0),
        ((2,), (12,), 0),
        ((), (), 12),
        ((1 << 62, 4), (1 << 62, 1), 0),
        ((1 << 62, 1 << 62), (0, 0), 0),
    ],
)
def test_tensor_outside_its_storage_is_named(
    path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    message = refusal(write_state(path, one_tensor(shape, stride, offset))).message
    assert "tensor 'a' has size" in message
    assert "need one that stays within the 12 values of its storage" in message


def test_foreign_name_is_refused_and_not_called(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(command: str) -> None:
        raise AssertionError(f"called with {command}")

    monkeypatch.setattr(os, "system", called)
    error = refusal(write_state(path, Call(Global("os system"), ("true",))))
    assert f"pytorch_model/data.pkl in {path} names 'os.system'" in error.message
    assert "was not loaded" in error.hint


def test_storage_without_an_entry_is_named(path: Path) -> None:
    state = {"a": tensor_call(storage("7", "F16", 12), (12,), (1,))}
    message = refusal(write_state(path, state)).message
    assert "has no entry 'pytorch_model/data/7', need it for tensor 'a'" in message


def test_storage_shorter_than_it_claims_is_named(path: Path) -> None:
    state = {"a": tensor_call(storage("0", "F32", 12), (2,), (1,))}
    message = refusal(write_state(path, state)).message
    assert "entry 'pytorch_model/data/0' has 24 bytes, tensor 'a' needs at least 48" in message


def test_big_endian_file_is_refused(path: Path) -> None:
    error = refusal(write_state(path, one_tensor((12,), (1,)), byteorder=b"big"))
    assert "byte order b'big', need b'little'" in error.message


def test_compressed_entry_is_refused(path: Path) -> None:
    contents = {"data.pkl": pickled(one_tensor((12,), (1,))), "data/0": NUMBERS.tobytes()}
    write_zip(path, contents, zipfile.ZIP_DEFLATED)
    message = refusal(path).message
    assert "entry 'pytorch_model/data.pkl' is compressed or encrypted" in message


@pytest.mark.parametrize("missing", [1, 30, 200, 400])
def test_truncated_file_is_named(path: Path, missing: int) -> None:
    write_state(path, one_tensor((12,), (1,)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    error = refusal(path)
    assert "is truncated or damaged: " in error.message
    assert f"{len(whole) - missing} bytes without the list of entries" in error.message
    assert "download it again" in error.hint


def test_file_of_old_torch_is_named(path: Path) -> None:
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    error = refusal(path)
    assert "has the format of torch before 1.6, need torch's zip format" in error.message
    assert "save it again with torch.save" in error.hint


def test_file_that_is_no_zip_is_named(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html>")
    assert "is not a torch zip: begins with b'<!DOCTYPE html>'" in refusal(path).message


def test_zip_without_a_pickle_is_named(path: Path) -> None:
    write_zip(path, {"constants.pkl": b""})
    assert "0 entries named data.pkl, need 1" in refusal(path).message


def test_huge_pickle_is_not_read(path: Path) -> None:
    write_zip(path, {"data.pkl": bytes((16 << 20) + 1)})
    assert "data.pkl' has 16777217 bytes, need at most 16777216" in refusal(path).message


def test_entry_listed_twice_is_refused(path: Path) -> None:
    write_state(path, one_tensor((12,), (1,)), **{"data/1": NUMBERS.tobytes()})
    path.write_bytes(path.read_bytes().replace(b"data/1", b"data/0"))
    assert "entry 'pytorch_model/data/0' is listed twice" in refusal(path).message


# Where the fields of an entry lie in its record in the list of entries at the end of a zip.
METHOD, COMPRESSED_SIZE, SIZE, HEADER_OFFSET = 10, 20, 24, 42


def patch_listed(path: Path, entry: str, fields: dict[int, int]) -> None:
    """Change 32-bit fields of an entry's record in the list of entries."""
    content = bytearray(path.read_bytes())
    record = content.rindex(f"{path.stem}/{entry}".encode()) - 46
    for place, number in fields.items():
        struct.pack_into("<I", content, record + place, number)
    path.write_bytes(content)


def claim_size(path: Path, entry: str, size_bytes: int) -> None:
    """Let both an entry's own header and its record claim another size of its content."""
    patch_listed(path, entry, {COMPRESSED_SIZE: size_bytes, SIZE: size_bytes})
    content = bytearray(path.read_bytes())
    header = content.index(f"{path.stem}/{entry}".encode()) - 30
    struct.pack_into("<II", content, header + 18, size_bytes, size_bytes)
    path.write_bytes(content)


def test_overlapping_storages_are_refused(path: Path) -> None:
    """The header of data/1 lies within what data/0 claims as its content."""
    write_state(path, one_tensor((12,), (1,)), **{"data/1": NUMBERS.tobytes()})
    claim_size(path, "data/0", 30)
    message = refusal(path).message
    assert "entry 'pytorch_model/data/1' overlaps 'pytorch_model/data/0'" in message


def test_entry_that_reaches_into_the_list_of_entries_is_refused(path: Path) -> None:
    write_state(path, one_tensor((12,), (1,)))
    claim_size(path, "version", 40)
    message = refusal(path).message
    assert "entry 'pytorch_model/version' ends at byte" in message
    assert ", need at most " in message


def test_two_entries_on_one_place_are_refused(path: Path) -> None:
    write_state(path, one_tensor((12,), (1,)), **{"data/1": NUMBERS.tobytes()})
    patch_listed(path, "data/1", {HEADER_OFFSET: path.read_bytes().index(b"PK", 4)})
    assert "entry 'pytorch_model/data/1' has a header that contradicts" in refusal(path).message


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({HEADER_OFFSET: 0}, "has a header that contradicts the list of entries"),
        ({HEADER_OFFSET: 0xFFFFFF00}, "begins at byte 4294967040, need less than"),
        ({COMPRESSED_SIZE: 8, SIZE: 8}, "has a header that contradicts the list of entries"),
        ({METHOD: zipfile.ZIP_DEFLATED}, "is compressed or encrypted, need it stored plainly"),
        ({SIZE: 8}, "is compressed or encrypted, need it stored plainly"),
    ],
)
def test_list_that_contradicts_an_entry_is_refused(
    path: Path, fields: dict[int, int], problem: str
) -> None:
    write_state(path, one_tensor((12,), (1,)))
    patch_listed(path, "data/0", fields)
    assert f"entry 'pytorch_model/data/0' {problem}" in refusal(path).message


def test_entry_that_reaches_past_the_end_is_truncated(path: Path) -> None:
    write_state(path, one_tensor((12,), (1,)))
    claim_size(path, "data/0", 1 << 30)
    message = refusal(path).message
    assert "is truncated: " in message
    assert "for its entry 'pytorch_model/data/0'" in message


def test_damaged_file_never_raises_anything_else(path: Path) -> None:
    write_state(path, one_tensor((3, 4), (4, 1)), byteorder=b"little")
    whole = path.read_bytes()
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in random.randint(0, len(whole), random.randint(1, 6)):
            damaged[place] = random.randint(256)
        path.write_bytes(damaged)
        try:
            map_torch_zip(path)
        except UserError:
            refused += 1
    assert refused > 200
