"""A safetensors file is mapped only where its header tells the truth about its bytes."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes, stored_values, write_safetensors
from safetensors.numpy import save_file

from quantize.containers.safetensors_map import map_safetensors
from quantize.files.errors import UserError

F16_PAIR = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}


def refusal(path: Path, content: bytes) -> UserError:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        map_safetensors(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_file_of_the_safetensors_library_is_read(tmp_path: Path) -> None:
    random = np.random.RandomState(2)
    arrays = {
        "b": random.standard_normal((3, 5)).astype(np.float16),
        "a": random.standard_normal(7).astype(np.float32),
        "mask": np.tril(np.ones((4, 4), np.bool_)),
        "ids": np.arange(3),
        "scalar": np.array(2.5, np.float32),
        "none": np.zeros((0, 4), np.float32),
    }
    save_file(arrays, tmp_path / "m.safetensors", metadata={"format": "pt", "x": "y"})
    tensors, metadata = map_safetensors(tmp_path / "m.safetensors")
    assert metadata == {"format": "pt", "x": "y"}
    assert tensors.keys() == arrays.keys()
    for name, values in arrays.items():
        assert tensors[name].shape == values.shape
        np.testing.assert_array_equal(tensors[name].data, values)
    np.testing.assert_array_equal(tensors["b"].read_float32(), arrays["b"].astype(np.float32))
    np.testing.assert_array_equal(tensors["scalar"].read_float32(), 2.5)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "b": "F16",
        "a": "F32",
        "mask": "BOOL",
        "ids": "I64",
        "scalar": "F32",
        "none": "F32",
    }


def test_tensors_come_in_the_order_of_their_data(tmp_path: Path) -> None:
    header = {
        "z": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
        "y": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    (tmp_path / "m").write_bytes(safetensors_bytes(header, b"\x05\x06\x07"))
    tensors, _ = map_safetensors(tmp_path / "m")
    assert [(name, list(tensor.data)) for name, tensor in tensors.items()] == [
        ("y", [5]),
        ("z", [6, 7]),
    ]


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.float32([1, -2.5, 3.0e38, 1e-40, 0.1, np.inf, -0.0])
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    write_safetensors(tmp_path / "m", {"a": ("BF16", bits)})
    tensor = map_safetensors(tmp_path / "m")[0]["a"]
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(tensor.read_float32().view(np.uint32), expected.view(np.uint32))


def test_rows_are_copied_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    values = stored_values(np.random.RandomState(1).standard_normal((9, 4)), "f16")
    write_safetensors(tmp_path / "m", {"a": ("F16", values.astype(np.float16))})
    before = (tmp_path / "m").read_bytes()
    tensor = map_safetensors(tmp_path / "m")[0]["a"]
    rows = tensor.read_float32(slice(2, 9, 3))
    np.testing.assert_array_equal(rows, values[2:9:3])
    rows[:] = 0
    np.testing.assert_array_equal(tensor.read_float32(), values)
    assert not tensor.data.flags.writeable
    assert (tmp_path / "m").read_bytes() == before


def test_unaligned_data_is_read(tmp_path: Path) -> None:
    values = np.float32([[1, 2], [3, 4]])
    write_safetensors(tmp_path / "m", {"odd": ("U8", np.ones(3, np.uint8)), "a": ("F32", values)})
    np.testing.assert_array_equal(map_safetensors(tmp_path / "m")[0]["a"].read_float32(), values)


def test_whole_numbers_are_not_read_as_floats(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m", {"a": ("I64", np.arange(3))})
    with pytest.raises(UserError, match="tensor 'a' is I64, need one of F16, BF16, F32"):
        map_safetensors(tmp_path / "m")[0]["a"].read_float32()


@pytest.mark.parametrize("kept", [9, 40, 150, 250])
def test_truncated_file_is_named_with_both_sizes(tmp_path: Path, kept: int) -> None:
    write_safetensors(tmp_path / "whole", {"a": ("F32", np.zeros(100, np.float32))})
    whole = (tmp_path / "whole").read_bytes()
    error = refusal(tmp_path / "m", whole[:kept])
    assert "m is truncated: " in error.message
    assert ", need " in error.message
    assert "download it again" in error.hint


def test_file_of_a_few_bytes_is_truncated(tmp_path: Path) -> None:
    assert "is truncated: 5 bytes, need 8" in refusal(tmp_path / "m", b"12345").message


def test_empty_file_is_named(tmp_path: Path) -> None:
    assert "m is empty" in refusal(tmp_path / "m", b"").message


def test_other_content_is_no_safetensors_file(tmp_path: Path) -> None:
    for content in (b"<!DOCTYPE html><html>", b"PK\x03\x04" + bytes(30)):
        assert "is not a safetensors file: found b'" in refusal(tmp_path / "m", content).message


def test_huge_header_is_not_read(tmp_path: Path) -> None:
    content = struct.pack("<Q", 100_000_001) + b"{}"
    assert "at most 100000000" in refusal(tmp_path / "m", content).message


def test_header_must_be_an_unambiguous_json_object(tmp_path: Path) -> None:
    entry = json.dumps(F16_PAIR)
    for text, reason in (
        (f'{{"a": {entry}, "a": {entry}}}', "the key 'a' is given twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("{nothing}", "Expecting property name"),
    ):
        content = struct.pack("<Q", len(text)) + text.encode() + bytes(4)
        message = refusal(tmp_path / "m", content).message
        assert message.startswith("the header of ")
        assert reason in message


@pytest.mark.parametrize("metadata", [["format"], {"format": 1}, "pt", None])
def test_metadata_must_be_strings(tmp_path: Path, metadata: object) -> None:
    content = safetensors_bytes({"__metadata__": metadata})
    assert "__metadata__" in refusal(tmp_path / "m", content).message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dtype": "F12"}, "has dtype 'F12', need one of F16, BF16, F32"),
        ({"dtype": 16}, "has dtype 16, need one of"),
        ({"dtype": ["F16"]}, "has dtype ['F16'], need one of"),
        ({"shape": [-2]}, "has shape [-2], need a list of a few sizes"),
        ({"shape": [2.0]}, "has shape [2.0], need"),
        ({"shape": [True, 2]}, "has shape [True, 2], need"),
        ({"shape": 2}, "has shape 2, need"),
        ({"shape": [1] * 9}, "has shape [1, 1, 1, 1, 1, 1, ...], need"),
        ({"shape": [0, 1 << 62, 1 << 62]}, "has shape [0, 4611686018427387904, "),
        ({"shape": [3]}, "has 4 bytes, need 6 for F16 [3]"),
        ({"shape": []}, "has 4 bytes, need 2 for F16 []"),
        ({"data_offsets": [4, 0]}, "has data_offsets [4, 0], need [start, end]"),
        ({"data_offsets": [0]}, "has data_offsets [0], need [start, end]"),
        ({"data_offsets": [-4, 0]}, "has data_offsets [-4, 0], need [start, end]"),
        ({"data_offsets": [0, 1 << 70]}, "has data_offsets [0, 1180591620717411303424], need"),
        ({"data_offsets": [0.0, 4.0]}, "has data_offsets [0.0, 4.0], need [start, end]"),
        ({"data_offsets": None}, "has data_offsets None, need [start, end]"),
        ({"data_offsets": [1, 5]}, "leaves a hole: starts at 1, need 0"),
    ],
)
def test_false_entry_is_named(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    content = safetensors_bytes({"a": F16_PAIR | changes}, bytes(4))
    assert f"tensor 'a' {problem}" in refusal(tmp_path / "m", content).message


def test_entry_that_is_no_object_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "m", safetensors_bytes({"a": [1]})).message
    assert "tensor 'a' is [1], need dtype, shape and data_offsets" in message


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    header = {"a": F16_PAIR, "b": F16_PAIR | {"data_offsets": [2, 6]}}
    message = refusal(tmp_path / "m", safetensors_bytes(header, bytes(6))).message
    assert "tensor 'b' overlaps the tensor before it: starts at 2, need 4" in message


def test_bytes_of_no_tensor_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "m", safetensors_bytes({"a": F16_PAIR}, bytes(5))).message
    assert "has 5 bytes of tensors, need 4" in message


def test_damaged_header_never_raises_anything_else(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "whole",
        {"a": ("F16", np.ones((3, 2), np.float16)), "b": ("U8", np.ones(2, np.uint8))},
    )
    whole = (tmp_path / "whole").read_bytes()
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in random.randint(0, len(whole), random.randint(1, 4)):
            damaged[place] = random.randint(256)
        (tmp_path / "m").write_bytes(damaged)
        try:
            map_safetensors(tmp_path / "m")
        except UserError:
            refused += 1
    assert refused > 200
