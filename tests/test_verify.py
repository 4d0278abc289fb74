"""`verify` sees every bit of a packed file, and names the tensor that is damaged."""

from pathlib import Path

import pytest
from packed import flip_bit, write_packed

from quantize.files.errors import UserError
from quantize.packed.packed_file import PayloadCheck, read_packed_file, verify
from quantize.packed.packed_header import TOKENIZER


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write_packed(tmp_path / "tiny.safetensors")


def payload_starts(path: Path) -> dict[str, int]:
    """Offset in the file of each payload, by name, in the file's order."""
    starts = {TOKENIZER: 8 + int.from_bytes(path.read_bytes()[:8], "little")}
    offset = starts[TOKENIZER] + 64
    for tensor in read_packed_file(path).tensors.values():
        starts[tensor.name] = offset
        offset += tensor.payload.size
    assert offset == path.stat().st_size
    return starts


@pytest.mark.parametrize("format", ["int8", "int4", "f16"])
def test_a_file_as_it_was_written_is_sound(tmp_path: Path, format: str) -> None:
    assert verify(write_packed(tmp_path / "m", format)) == []


def test_every_payload_is_reported_once_in_the_files_order(packed: Path) -> None:
    checks: list[PayloadCheck] = []
    verify(packed, checks.append)
    names = [TOKENIZER, *read_packed_file(packed).tensors]
    assert [check.name for check in checks] == names
    assert [(check.index, check.count) for check in checks] == [
        (index + 1, len(names)) for index in range(len(names))
    ]
    payload_bytes = packed.stat().st_size - payload_starts(packed)[TOKENIZER]
    assert sum(check.bytes for check in checks) == payload_bytes
    assert all(check.is_sound for check in checks)


def test_one_flipped_bit_names_its_tensor_and_no_other(packed: Path) -> None:
    sound = packed.read_bytes()
    ends = [*list(payload_starts(packed).values())[1:], len(sound)]
    for (name, start), end in zip(payload_starts(packed).items(), ends, strict=True):
        for offset in (start, (start + end) // 2, end - 1):  # the last may be padding
            flip_bit(packed, offset)
            [check] = verify(packed)
            assert check.name == name
            assert check.found != check.need
            packed.write_bytes(sound)


def test_two_damaged_tensors_are_both_named(packed: Path) -> None:
    starts = payload_starts(packed)
    for name in ("h.0.mlp.fc_in.weight", "ln_f.bias"):
        flip_bit(packed, starts[name])
    assert [check.name for check in verify(packed)] == ["h.0.mlp.fc_in.weight", "ln_f.bias"]


def test_no_bit_of_length_or_header_can_flip_unseen(packed: Path) -> None:
    sound = packed.read_bytes()
    n_header = int.from_bytes(sound[:8], "little")
    for offset in [*range(8), *range(8, 8 + n_header, 211), 8 + n_header - 1]:
        flip_bit(packed, offset)
        with pytest.raises(UserError, match=r"tiny\.safetensors"):
            verify(packed)
        packed.write_bytes(sound)


def test_a_payload_longer_than_one_piece_is_hashed_whole(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "long", "f16", vocab_size=40_000)  # 5 MB in wte.weight
    assert verify(path) == []
    flip_bit(path, payload_starts(path)["lm_head.weight"] - 9 * 4 * 64 * 4)
    assert len(verify(path)) == 1
