"""What lies on disk is counted once, by kind and place, and without the holes of sparse files."""

import json
import sys
from pathlib import Path

import pytest

from codegen_cli.engine_torch import compiler_cache
from codegen_cli.machine import places
from codegen_cli.machine.disk_bytes import freed_bytes
from codegen_cli.models.disk_use import DiskUse, disk_use
from codegen_cli.models.leftovers import leftovers, remove_leftover

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and holes as POSIX has them")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "home"


def file_of(path: Path, n_bytes: int, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content * n_bytes)
    return path


def revision(repository: Path, commit: str, blobs: dict[str, str]) -> None:
    """Make a snapshot of links, by name to a blob's name."""
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, blob in blobs.items():
        (snapshot / name).symlink_to(Path("../../blobs", blob))


def test_a_new_home_has_nothing() -> None:
    assert disk_use() == []


def test_a_blob_of_two_revisions_is_counted_once_and_another_programs_models_are_not(
    tmp_path: Path,
) -> None:
    hub = tmp_path / "hf" / "hub"
    repository = hub / "models--Salesforce--codegen-2B-nl"
    file_of(repository / "blobs" / "w", 100_000)
    file_of(repository / "blobs" / "c1", 10)
    file_of(repository / "blobs" / "c2", 20)
    file_of(repository / "refs" / "main", 3)
    revision(repository, "1" * 40, {"pytorch_model.bin": "w", "config.json": "c1"})
    revision(repository, "2" * 40, {"pytorch_model.bin": "w", "config.json": "c2", "gone": "x"})
    part = file_of(repository / "blobs" / "v.01234567.incomplete", 5000)
    unlinked = hub / "models--someone--copy" / "snapshots" / ("3" * 40)  # as Windows has it
    file_of(unlinked / "pytorch_model.bin", 2000)
    (unlinked / "config.json").write_text('{"model_type": "codegen"}')
    config_bytes = (unlinked / "config.json").stat().st_size
    other = hub / "models--someone--llama" / "snapshots" / ("4" * 40)
    file_of(other / "model.safetensors", 3000)
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert disk_use() == [
        DiskUse("checkpoint", hub, 3, 100_033 + 2000 + config_bytes),
        DiskUse("download", hub, 1, 5000),
    ]
    assert [(each.path, each.file_bytes) for each in leftovers()] == [(part, 5000)]


def test_our_own_files_are_told_apart_by_kind_and_place(home: Path, tmp_path: Path) -> None:
    models, cache = places.models_dir(), places.cache_dir()
    packed = file_of(models / "a.int8.safetensors", 1000)
    (models / "b.int8.safetensors").hardlink_to(packed)
    file_of(models / ".c.int8.safetensors.01234567.part", 200)
    file_of(cache / "packed" / "0f.int8.safetensors", 300)
    file_of(cache / "packed" / ".1f.int8.safetensors.01234567.part", 40)
    file_of(cache / "kernels" / "k.o", 50)
    file_of(cache / "triton" / "KEY" / "k.cubin", 60)
    file_of(cache / "else" / "x", 7)
    file_of(cache / "y", 1)
    file_of(home / "settings.json", 9)
    assert set(disk_use()) == {
        DiskUse("packed", models, 2, 1000),
        DiskUse("unfinished", models, 1, 200),
        DiskUse("copy", cache / "packed", 1, 300),
        DiskUse("unfinished", cache / "packed", 1, 40),
        DiskUse("kernels", cache / "kernels", 1, 50),
        DiskUse("triton", cache / "triton", 1, 60),
        DiskUse("other", cache, 2, 8),
    }


def test_holes_and_names_that_others_keep_give_nothing_back(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 30)
    assert freed_bytes(sparse) < 1 << 20
    plain = file_of(tmp_path / "d" / "plain", 5000)
    assert freed_bytes(plain) == freed_bytes(tmp_path / "d") == 5000
    (tmp_path / "link").symlink_to(tmp_path / "d")
    assert freed_bytes(tmp_path / "link") < 5000
    (tmp_path / "other name").hardlink_to(plain)
    assert freed_bytes(plain) == freed_bytes(tmp_path / "gone") == 0


def triton_kernel(key: str, metadata: str) -> Path:
    folder = compiler_cache.directory() / key
    file_of(folder / "k.cubin", 1000)
    (folder / "k.json").write_text(metadata)
    (folder / "__grp__k.json").write_text('{"child_paths": {}}')
    return folder


def test_what_another_triton_compiled_can_go_and_what_does_not_say_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = triton_kernel("A", json.dumps({"triton_version": "3.1.0"}))
    current = triton_kernel("B", json.dumps({"triton_version": "3.5.0"}))
    for key, text in [("C", "{}"), ("D", "[]"), ("E", "{"), ("F", '{"triton_version": 3}')]:
        triton_kernel(key, text)
    (compiler_cache.directory() / "link").symlink_to(old)
    package = tmp_path / "site" / "triton" / "__init__.py"
    file_of(package, 1)
    package.write_text('"""isort:skip_file"""\n__version__ = \'3.5.0\'\n')
    monkeypatch.syspath_prepend(str(package.parent.parent))
    assert compiler_cache.unused_directories() == [old]
    [leftover] = leftovers()
    need = sum(path.stat().st_size for path in old.iterdir())
    assert (leftover.kind, leftover.path, leftover.file_bytes) == ("triton", old, need)
    assert [remove_leftover(leftover), remove_leftover(leftover)] == [True, False]
    assert not old.exists()
    assert current.exists()
    package.write_text("")  # one that does not say which it is
    assert compiler_cache.unused_directories() == []
