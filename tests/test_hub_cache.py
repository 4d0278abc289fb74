"""The hub's cache read without its client: as the client itself reads it."""

import importlib
import os
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import try_to_load_from_cache

from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.stored import cache as hub_cache
from quantize.files.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
MINE = ModelEntry("some/model", repository="some/model")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def write_snapshot(cache: Path, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """Lay files out as the client does, each blob named by the file here; return the snapshot."""
    repository = cache / "models--some--model"
    snapshot = repository / "snapshots" / commit
    for directory in (snapshot, repository / "blobs", repository / "refs"):
        directory.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for name, data in files.items():
        (repository / "blobs" / f"of-{name}").write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/of-{name}")
    return snapshot


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"HF_HOME": "/somewhere"},
        {"HF_HOME": "~/hf", "HOME": "/home/me"},
        {"HF_HOME": "$PLACE/hf", "PLACE": "/mnt"},
        {"HF_HOME": "relative"},
        {"HF_HOME": "~nobody-of-that-name/x"},
        {"XDG_CACHE_HOME": "/caches"},
        {"HF_HUB_CACHE": "~/cache", "HF_HOME": "/other"},
        {"HF_HUB_CACHE": "$PLACE/c", "PLACE": "/mnt"},
        {"HUGGINGFACE_HUB_CACHE": "~/legacy"},
        {"HUGGINGFACE_HUB_CACHE": "/legacy", "HF_HUB_CACHE": "/new"},
        {"HOME": "/home/me"},
        {"HOME": ""},
    ],
    ids=str,
)
def test_the_cache_is_where_the_client_has_it(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    constants = importlib.reload(huggingface_hub.constants)
    assert hub_cache.stated_cache_dir() == constants.HF_HUB_CACHE
    assert str(Path(hub_cache.hub_home(), "token")) == constants.HF_TOKEN_PATH


@pytest.fixture(autouse=True)
def constants_as_they_were() -> object:
    yield
    importlib.reload(huggingface_hub.constants)


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("HF_HOME", "/hf")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setenv(name, "")
    assert hub_cache.cache_dir() == Path("/hf/hub")
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, " ")
    assert hub_cache.cache_dir() == Path("/home/me/.cache/huggingface/hub")


def test_files_are_found_as_the_client_finds_them(cache: Path) -> None:
    snapshot = write_snapshot(cache, {"config.json": b"{}", "vocab.json": b"{}"})
    (snapshot / "gone").symlink_to("../../blobs/gone")
    (snapshot / "directory").mkdir()
    refs = snapshot.parent.parent / "refs"
    (refs / "refs" / "pr").mkdir(parents=True)
    (refs / "refs" / "pr" / "1").write_text(COMMIT)
    (refs / "empty").write_text("")
    (refs / "elsewhere").write_text("../../models--some--model/snapshots/" + COMMIT)
    (refs / "unknown").write_text(OTHER)
    (refs / "line").write_text(f"{COMMIT}\n")
    revisions = ("main", COMMIT, "refs/pr/1", "empty", "elsewhere", "unknown", "line", OTHER, "v1")
    for revision in revisions:
        for name in ("config.json", "vocab.json", "gone", "directory", "none"):
            theirs = try_to_load_from_cache("some/model", name, cache, revision)
            ours = hub_cache.cached_file("some/model", name, revision)
            assert (ours and str(ours)) == theirs, (revision, name)
    assert hub_cache.cached_file("some/other", "config.json", "main") is None


@pytest.mark.parametrize("name", ["some--model/x", "a..b/c", "", f"some/{'a' * 5000}"])
def test_what_no_repository_is_called_is_not_there(cache: Path, name: str) -> None:
    write_snapshot(cache, {"config.json": b"{}"})
    assert hub_cache.cached_checkpoint(ModelEntry(name, repository=name)) is None


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/hub", f"/{'a' * 300}", "/proc/self/mem"])
def test_a_cache_that_is_none_holds_nothing_and_is_named(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", place)
    assert hub_cache.cached_checkpoint(MINE) is None
    problem = hub_cache.problem_of(MINE)
    assert problem is not None
    assert problem.message.startswith(f"cannot read {place}/models--some--model/refs: ")
    assert "HF_HUB_CACHE" in problem.hint


def test_a_cache_that_is_not_there_or_lacks_the_model_is_no_problem(cache: Path) -> None:
    assert hub_cache.problem_of(MINE) is None
    write_snapshot(cache, {"config.json": b"{}"})
    assert hub_cache.problem_of(MINE) is None
    assert hub_cache.problem_of(ModelEntry("other/model", repository="other/model")) is None


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs directories to be refused")
def test_a_cache_that_may_not_be_read_holds_nothing(cache: Path) -> None:
    snapshot = write_snapshot(cache, {"config.json": b"{}"})
    for directory in (snapshot, snapshot.parent, cache):
        directory.chmod(0)
        assert hub_cache.cached_checkpoint(MINE) is None
        assert "Permission denied" in hub_cache.problem_of(MINE).message
        directory.chmod(0o700)


def test_links_in_a_circle_are_not_there(cache: Path) -> None:
    snapshot = write_snapshot(cache, {"model.safetensors": b"x", "tokenizer.json": b"{}"})
    (snapshot / "config.json").symlink_to("config.json")
    assert hub_cache.cached_checkpoint(MINE) is None


def test_a_broken_index_names_the_command_that_fetches_it_again(cache: Path) -> None:
    write_snapshot(
        cache,
        {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": b"{"},
    )
    with pytest.raises(UserError, match="does not list weight files") as raised:
        hub_cache.cached_checkpoint(MINE)
    assert raised.value.hint == "Fetch it again: codegen download --force some/model"


def test_a_blob_states_the_hash_of_its_content_by_its_name(cache: Path) -> None:
    snapshot = write_snapshot(cache, {"other": b"x"})
    for name, expected in (
        ("a" * 64, "a" * 64),
        ("b" * 40, "b" * 40),
        ("A" * 64, ""),
        ("c" * 63, ""),
        ("W/weak-etag", ""),
    ):
        link = snapshot / "file"
        link.symlink_to(f"../../blobs/{name}")
        assert hub_cache.hash_of_name(link) == expected
        link.unlink()
    (snapshot / "file").write_bytes(b"no link, as on Windows")
    assert hub_cache.hash_of_name(snapshot / "file") == ""
    (snapshot / "outside").symlink_to(f"../../../{'a' * 64}")
    assert hub_cache.hash_of_name(snapshot / "outside") == ""


def test_a_removed_file_leaves_no_link_to_nothing(cache: Path) -> None:
    first = write_snapshot(cache, {"config.json": b"{}", "tokenizer.json": b"{}"})
    second = first.parent / OTHER
    second.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (second / name).symlink_to(f"../../blobs/of-{name}")
    hub_cache.remove_file(first / "config.json")
    assert [path.name for path in first.iterdir()] == ["tokenizer.json"]
    assert [path.name for path in second.iterdir()] == ["tokenizer.json"]
    blobs = first.parent.parent / "blobs"
    assert [path.name for path in blobs.iterdir()] == ["of-tokenizer.json"]


def test_a_removed_file_takes_what_repositories_share_with_it(cache: Path) -> None:
    """Newer clients keep payloads in one store, to which blobs are links."""
    snapshot = write_snapshot(cache, {"config.json": b"{}"})
    payload = cache / "blobs" / "aa" / ("a" * 64)
    payload.parent.mkdir(parents=True)
    payload.write_bytes(b"weights")
    blob = snapshot.parent.parent / "blobs" / ("b" * 64)
    blob.symlink_to(f"../../blobs/aa/{'a' * 64}")
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{'b' * 64}")
    assert hub_cache.hash_of_name(snapshot / "model.safetensors") == "b" * 64
    hub_cache.remove_file(snapshot / "model.safetensors")
    assert not payload.exists()
    assert not blob.is_symlink()
    outside = cache.parent / "mine"
    outside.write_bytes(b"keep")
    blob.symlink_to(outside)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{'b' * 64}")
    hub_cache.remove_file(snapshot / "model.safetensors")
    assert outside.read_bytes() == b"keep"
