"""The part of a file in the hub's cache: what is there counts, and nothing loses it."""

import hashlib
import random
from pathlib import Path

import pytest

from codegen_cli.hub.stored.content_hash import new_digest
from codegen_cli.hub.stored.part import Begun, Part, note_begun, part_path, read_begun, sums_path

DATA = random.Random(3).randbytes(10_000_000)
BEGUN = Begun("pytorch_model.bin", len(DATA), "main", "c" * 40)


def part_of(blob: Path) -> Part:
    return Part(blob, BEGUN, new_digest("0" * 64, len(DATA)))


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """A blob of which 6,000,000 bytes are there, in two stretches."""
    blob = tmp_path / "blobs" / "aa"
    with part_of(blob) as part:
        part.resume()
        part.append(DATA[:5_000_000])
        part.append(DATA[5_000_000:6_000_000])
    return blob


def test_a_part_goes_on_to_the_whole_file_and_its_hash(blob: Path) -> None:
    read = []
    with part_of(blob) as part:
        part.resume(read.append)
        assert part.length == sum(read) == 6_000_000
        part.append(DATA[6_000_000:])
        assert part.hash() == hashlib.sha256(DATA).hexdigest()
        part.finish()
    assert blob.read_bytes() == DATA
    assert list(blob.parent.iterdir()) == [blob]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_part_whose_reading_is_interrupted_stays_whole(
    blob: Path, error: type[BaseException]
) -> None:
    def interrupt(n_bytes: int) -> None:
        raise error

    with pytest.raises(error), part_of(blob) as part:
        part.resume(interrupt)
    assert part_path(blob).read_bytes() == DATA[:6_000_000]
    with part_of(blob) as part:
        part.resume()
        assert part.length == 6_000_000


def test_a_part_that_is_noted_again_stays_whole(blob: Path) -> None:
    note_begun(blob, BEGUN)
    assert part_path(blob).read_bytes() == DATA[:6_000_000]


def test_what_is_noted_waits_empty_and_what_never_began_leaves_nothing(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "aa"
    with part_of(blob) as part:
        part.resume()
    assert list(blob.parent.iterdir()) == []
    note_begun(blob, BEGUN)
    with part_of(blob) as part:
        part.resume()
    assert read_begun(sums_path(blob)) == BEGUN
    assert part_path(blob).stat().st_size == 0


def test_a_flipped_bit_costs_its_stretch_and_what_follows(blob: Path) -> None:
    content = bytearray(part_path(blob).read_bytes())
    content[5_500_000] ^= 1
    part_path(blob).write_bytes(content)
    with part_of(blob) as part:
        part.resume()
        assert part.length == 5_000_000
    assert part_path(blob).read_bytes() == DATA[:5_000_000]


def test_reserved_room_is_given_back(blob: Path) -> None:
    held = part_path(blob).stat().st_blocks
    with part_of(blob) as part:
        part.resume()
        assert part_path(blob).stat().st_size == 6_000_000
    assert part_path(blob).stat().st_blocks <= held + 16
