"""Checkpoints fetched by the real hub client from a hub on 127.0.0.1, and what can go wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import CACHED, DOWNLOAD, FILES, ask, environment, run_codegen
from hub_server import Fault, HubServer, Repository

from codegen_cli.hub.download import download
from codegen_cli.hub.stored.cache import cached_checkpoint
from codegen_cli.models.registry import known_entry
from quantize.files.errors import UserError

NEEDED = ["config.json", "tokenizer.json", "pytorch_model.bin"]


def index(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"tensor.{name}": name for name in names}}).encode()


def sharded(kind: str, suffix: str) -> dict[str, bytes]:
    """The files of a sharded repository; the index lists two of its three shards."""
    shards = [f"{kind}-0000{n}-of-00002.{suffix}" for n in (1, 2, 3)]
    files = {name: FILES[name] for name in ("config.json", "tokenizer.json")}
    files |= {name: name.encode() * 50 for name in shards}
    return files | {f"{kind}.{suffix}.index.json": index(*shards[:2])}


def without(*names: str) -> dict[str, bytes]:
    return {name: data for name, data in FILES.items() if name not in names}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({"someone/model": Repository(dict(FILES))}) as server:
        yield server


def test_download_fetches_config_tokenizer_and_weights_and_nothing_else(
    hub: HubServer, tmp_path: Path
) -> None:
    [answer] = ask(environment(hub.url, tmp_path), DOWNLOAD)
    directory = Path(answer["path"])
    assert hub.fetched_files() == NEEDED
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        name: FILES[name] for name in NEEDED
    }
    assert tmp_path in directory.parents


def test_hf_hub_cache_chooses_where_checkpoints_are_kept(hub: HubServer, tmp_path: Path) -> None:
    cache = tmp_path / "elsewhere"
    [answer] = ask(environment(hub.url, tmp_path / "home", HF_HUB_CACHE=str(cache)), DOWNLOAD)
    assert cache in Path(answer["path"]).parents


def test_safetensors_are_fetched_rather_than_pickled_weights(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.repositories["someone/model"].files["model.safetensors"] = b"tensors"
    ask(environment(hub.url, tmp_path), DOWNLOAD)
    assert hub.fetched_files() == ["config.json", "tokenizer.json", "model.safetensors"]


def test_where_tokenizer_json_is_absent_the_files_it_is_built_from_are_fetched(
    hub: HubServer, tmp_path: Path
) -> None:
    names = ("merges.txt", "added_tokens.json", "tokenizer_config.json")
    older = {name: name.encode() for name in names}
    hub.repositories["someone/model"].files = without("tokenizer.json") | older
    downloaded, cached = ask(environment(hub.url, tmp_path), DOWNLOAD, CACHED)
    needed = ["config.json", "vocab.json", *older, "pytorch_model.bin"]
    assert hub.fetched_files() == needed
    assert {path.name for path in Path(downloaded["path"]).iterdir()} == set(needed)
    assert cached["path"] == downloaded["path"]


def test_the_files_beside_a_tokenizer_json_are_fetched_too(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["someone/model"].files["tokenizer_config.json"] = b"{}"
    ask(environment(hub.url, tmp_path), DOWNLOAD)
    assert hub.fetched_files() == [*NEEDED[:2], "tokenizer_config.json", NEEDED[2]]


@pytest.mark.parametrize(("kind", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_all_shards_of_an_index_are_fetched_and_no_others(
    hub: HubServer, tmp_path: Path, kind: str, suffix: str
) -> None:
    files = sharded(kind, suffix)
    hub.repositories["someone/model"].files = files
    downloaded, cached = ask(environment(hub.url, tmp_path), DOWNLOAD, CACHED)
    needed = set(files) - {f"{kind}-00003-of-00002.{suffix}"}
    assert sorted(hub.fetched_files()) == sorted(needed)
    assert {path.name for path in Path(downloaded["path"]).iterdir()} == needed
    assert cached["path"] == downloaded["path"]


def test_progress_counts_the_bytes_of_all_files(hub: HubServer, tmp_path: Path) -> None:
    [answer] = ask(environment(hub.url, tmp_path), DOWNLOAD)
    total_bytes = sum(len(FILES[name]) for name in NEEDED)
    done_bytes = [done for _, done, _ in answer["events"]]
    assert {total for _, _, total in answer["events"]} == {total_bytes}
    assert list(dict.fromkeys(file for file, _, _ in answer["events"])) == NEEDED
    assert done_bytes == sorted(done_bytes)
    assert (done_bytes[0], done_bytes[-1]) == (0, total_bytes)


def test_complete_checkpoint_in_the_cache_is_found_without_a_request(
    hub: HubServer, tmp_path: Path
) -> None:
    env = environment(hub.url, tmp_path)
    [downloaded] = ask(env, DOWNLOAD)
    hub.requests.clear()
    cached, again = ask(env, CACHED, DOWNLOAD)
    assert cached["path"] == again["path"] == downloaded["path"]
    assert again["events"] == []
    assert hub.requests == []


def test_empty_cache_holds_no_checkpoint(hub: HubServer, tmp_path: Path) -> None:
    answers = ask(environment(hub.url, tmp_path), CACHED, ("cached_checkpoint", "a--b/c", "main"))
    assert [answer["path"] for answer in answers] == [None, None]
    assert hub.requests == []


@pytest.mark.parametrize("name", NEEDED)
def test_checkpoint_that_lacks_a_file_is_completed_with_that_file(
    hub: HubServer, tmp_path: Path, name: str
) -> None:
    env = environment(hub.url, tmp_path)
    [downloaded] = ask(env, DOWNLOAD)
    path = Path(downloaded["path"]) / name
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    hub.requests.clear()
    cached, again = ask(env, CACHED, DOWNLOAD)
    assert cached["path"] is None
    assert hub.fetched_files() == [name]
    assert path.read_bytes() == FILES[name]
    assert again["events"][-1][1:] == [sum(len(FILES[name]) for name in NEEDED)] * 2


def test_checkpoint_that_lacks_a_shard_is_not_found(hub: HubServer, tmp_path: Path) -> None:
    env = environment(hub.url, tmp_path)
    hub.repositories["someone/model"].files = sharded("model", "safetensors")
    [downloaded] = ask(env, DOWNLOAD)
    (Path(downloaded["path"]) / "model-00002-of-00002.safetensors").unlink()
    [cached] = ask(env, CACHED)
    assert cached["path"] is None


def test_a_network_that_fails_for_good_is_an_error_and_the_next_run_goes_on(
    hub: HubServer, tmp_path: Path
) -> None:
    env = environment(hub.url, tmp_path)
    name = "pytorch_model.bin"
    faults = hub.repositories["someone/model"].faults
    faults += [
        Fault(name, cut_after_bytes=1000, times=1),
        Fault(name, after=1, cut_after_bytes=0),
    ]
    broken, cached = ask(env, DOWNLOAD, CACHED)
    assert broken["message"].startswith(f"the connection to {hub.url} failed: ")
    assert "HF_ENDPOINT" in broken["hint"]
    assert cached["path"] is None
    [part] = tmp_path.rglob("*.codegen.incomplete")
    assert part.read_bytes() == FILES[name][:1000]
    faults.clear()
    hub.requests.clear()
    [answer] = ask(env, DOWNLOAD)
    assert hub.fetched_files() == [name]
    assert hub.fetched_bytes(name) == len(FILES[name]) - 1000
    assert (Path(answer["path"]) / name).read_bytes() == FILES[name]


BROKEN = {
    "none": ("has no repository someone/none", "HF_TOKEN"),
    "gated": ("someone/gated is gated", "/someone/gated, then set HF_TOKEN"),
    "failing": ("answered 503 for someone/failing", "Run the same command again"),
    "website": ("does not answer as a hub does", "Check HF_ENDPOINT"),
    "no-weights": ("someone/no-weights has no model.safetensors", "pytorch_model.bin"),
    "no-tokenizer": ("someone/no-tokenizer has no tokenizer.json", "A CodeGen checkpoint holds"),
    "no-shard": ("someone/no-shard has no model-00001.safetensors", "with an index"),
    "no-map": ("model.safetensors.index.json does not list weight files", "weight_map"),
    "outside": ("model.safetensors.index.json does not list weight files", "weight_map"),
    "huge": ("the download needs 1,000,000,000,000 MB", "HF_HOME"),
    "a--b": ("someone/a--b cannot be a repository", ""),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the client says of each broken repository, and of a revision that does not exist."""
    indexed = without("pytorch_model.bin")
    repositories = {
        "gated": Repository(FILES, gated=True),
        "failing": Repository(FILES, failing_status=503),
        "website": Repository(FILES, info=b"<!DOCTYPE html><html></html>"),
        "no-weights": Repository(without("pytorch_model.bin")),
        "no-tokenizer": Repository(without("tokenizer.json")),
        "no-shard": Repository(
            indexed | {"model.safetensors.index.json": index("model-00001.safetensors")}
        ),
        "no-map": Repository(indexed | {"model.safetensors.index.json": b'{"weight_map": [1]}'}),
        "outside": Repository(indexed | {"model.safetensors.index.json": index("../config.json")}),
        "huge": Repository(FILES, stated_bytes={"pytorch_model.bin": 10**18}),
        "model": Repository(FILES),
    }
    calls = [("download", f"someone/{name}", "main") for name in BROKEN]
    calls.append(("download", "someone/model", "v9"))
    with HubServer({f"someone/{name}": made for name, made in repositories.items()}) as hub:
        answers = ask(environment(hub.url, tmp_path_factory.mktemp("hf")), *calls)
    return dict(zip([*BROKEN, "v9"], answers, strict=True))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_repository_is_refused_with_its_name_and_a_hint(
    refusals: dict[str, dict[str, Any]], name: str
) -> None:
    message, hint = BROKEN[name]
    assert message in refusals[name]["message"]
    assert hint in refusals[name]["hint"]
    assert "\n" not in refusals[name]["message"]


def test_missing_revision_is_named(refusals: dict[str, dict[str, Any]]) -> None:
    assert refusals["v9"]["message"] == "someone/model has no revision v9"


def test_unreachable_hub_is_named_with_the_way_to_work_offline(tmp_path: Path) -> None:
    with HubServer({}) as hub:
        closed = hub.url
    [answer] = ask(environment(closed, tmp_path), DOWNLOAD)
    assert answer["message"].startswith(f"the connection to {closed} failed: ")
    assert "codegen quantize DIRECTORY" in answer["hint"]


def test_hf_hub_offline_is_obeyed_and_named(hub: HubServer, tmp_path: Path) -> None:
    env = environment(hub.url, tmp_path, HF_HUB_OFFLINE="1")
    [answer] = ask(env, DOWNLOAD)
    assert "HF_HUB_OFFLINE forbids" in answer["message"]
    assert "someone/model" in answer["message"]
    assert hub.requests == []


def test_repository_that_changes_during_the_download_is_not_mixed(
    hub: HubServer, tmp_path: Path
) -> None:
    repository = hub.repositories["someone/model"]

    def change(path: str) -> None:
        if path.endswith("/pytorch_model.bin"):
            repository.files["pytorch_model.bin"] = b"new"

    hub.before_answer = change
    env = environment(hub.url, tmp_path)
    [answer] = ask(env, DOWNLOAD)
    assert "codegen: someone/model has changed on the hub meanwhile: starting" in answer["stderr"]
    assert Path(answer["path"]).name == repository.commit
    assert (Path(answer["path"]) / "pytorch_model.bin").read_bytes() == b"new"


def test_cache_below_a_file_is_named(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [answer] = ask(environment(hub.url, tmp_path / "file"), DOWNLOAD)
    assert answer["message"].startswith(f"cannot store someone/model in {tmp_path / 'file'}")


def test_bundled_model_is_neither_cached_nor_downloaded() -> None:
    entry = known_entry("nano")
    assert cached_checkpoint(entry) is None
    with pytest.raises(UserError, match="nano is bundled: there is nothing to download"):
        download(entry)


def test_registered_models_are_downloaded_from_their_own_repository(
    hub: HubServer, tmp_path: Path
) -> None:
    entry = known_entry("350M-mono")
    hub.repositories = {entry.repository: Repository(FILES, revision=entry.revision)}
    [answer] = ask(environment(hub.url, tmp_path), ("download", entry.repository, entry.revision))
    assert "models--Salesforce--codegen-350M-mono" in answer["path"]


def test_command_prints_the_directory_alone_and_notes_on_stderr(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.repositories["Salesforce/codegen-350M-mono"] = Repository(FILES)
    env = environment(hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path / "codegen"))
    fetched = run_codegen(env, "download", "codegen-350m-mono")
    assert fetched.returncode == 0
    directory = fetched.stdout.removesuffix("\n")
    assert (Path(directory) / "config.json").read_bytes() == FILES["config.json"]
    [told] = [line for line in fetched.stderr.splitlines() if "fetching" in line]
    begin = "codegen: fetching 350M-mono from Salesforce/codegen-350M-mono: 256 kB into "
    assert told.startswith(f"{begin}{tmp_path / 'hf' / 'hub'}, ")
    assert told.endswith(" free")
    assert "next:" not in fetched.stderr  # for people at a terminal
    quiet = run_codegen(env, "download", "-q", "350M-mono")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, fetched.stdout, "")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("350M-mon", "unknown model '350M-mon'"),
        ("nano", "nano is on this machine: there is nothing to download"),
        ("someone/none", "has no repository someone/none"),
    ],
)
def test_command_fails_with_the_reason_and_prints_no_directory(
    hub: HubServer, tmp_path: Path, model: str, message: str
) -> None:
    env = environment(hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path / "codegen"))
    ran = run_codegen(env, "download", model)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
