"""What may go from the data and cache directories: packed copies, and parts of killed runs."""

from pathlib import Path

import pytest
from packed import write_packed

from codegen_cli.machine import places
from codegen_cli.models.leftovers import Leftover, leftovers, remove_leftover
from codegen_cli.reports.model_views import leftover_rows, prune_line
from quantize.files.partial_file import partial_path
from quantize.files.whole_file import SHARED, replacing


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def unfinished(target: Path, n_bytes: int = 5) -> Path:
    """A part of a target that nobody writes to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    partial.write_bytes(bytes(n_bytes))
    return partial


def test_a_new_home_has_none(home: Path) -> None:
    assert leftovers() == []
    assert not home.exists()


def test_copies_and_parts_are_listed_and_models_are_not() -> None:
    write_packed(places.models_dir() / "mine.int8.safetensors")
    copy = write_packed(places.packed_copies_dir() / "0f.int8.safetensors", name="tiny")
    damaged = places.packed_copies_dir() / "1f.int8.safetensors"
    damaged.write_bytes(b"x")
    part = unfinished(places.models_dir() / "a.int8.safetensors")
    other = unfinished(places.packed_copies_dir() / "2f.int8.safetensors")
    assert leftovers() == [
        Leftover("copy", copy, copy.stat().st_size, "tiny"),
        Leftover("copy", damaged, 1, ""),
        Leftover("unfinished", part, 5),
        Leftover("unfinished", other, 5),
    ]
    assert all(remove_leftover(each) for each in leftovers())
    assert leftovers() == []
    assert [path.name for path in places.models_dir().iterdir()] == ["mine.int8.safetensors"]


def test_they_are_told_of_one_by_one_and_in_all() -> None:
    part = unfinished(places.models_dir() / "a", 2_000_000)
    copy = write_packed(places.packed_copies_dir() / "0f.int8.safetensors")
    found = leftovers()
    assert leftover_rows(found) == [
        ["packed copies of checkpoints", "127 kB", str(copy)],
        ["unfinished packed files", "2 MB", str(part)],
    ]
    assert prune_line(found, True) == "that would free 2 MB"
    assert prune_line(found[:1], False) == "that freed 127 kB"
    assert prune_line([], True) == prune_line([], False) == "there is nothing to remove"


def test_one_that_went_meanwhile_is_not_removed_twice() -> None:
    unfinished(places.models_dir() / "a.int8.safetensors")
    write_packed(places.packed_copies_dir() / "0f.int8.safetensors")
    found = leftovers()
    for each in found:
        each.path.unlink()
    assert [remove_leftover(each) for each in found] == [False, False]


def test_what_is_being_written_now_stays() -> None:
    target = places.models_dir() / "a.int8.safetensors"
    target.parent.mkdir(parents=True)
    with replacing(target, mode=SHARED):
        assert leftovers() == []
    assert target.exists()
