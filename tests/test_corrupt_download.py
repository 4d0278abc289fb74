"""Files that are not what the hub states: refused as they arrive, found later, fetched again."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from hub_client import AGAIN, CACHED, DOWNLOAD, FILES, ask, environment, run_codegen
from hub_server import HubServer, Repository, content_hash
from packed import flip_bit

NEEDED = ["config.json", "tokenizer.json", "pytorch_model.bin"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({"someone/model": Repository(dict(FILES))}) as server:
        yield server


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("states_hashes", [True, False])
def test_a_flipped_bit_is_refused_and_only_that_file_is_fetched_again(
    hub: HubServer, tmp_path: Path, name: str, states_hashes: bool
) -> None:
    """Where the info states no hashes, the ETag that names the blob does."""
    repository = hub.repositories["someone/model"]
    repository.flipped, repository.states_hashes = {name}, states_hashes
    env = environment(hub.url, tmp_path)
    refused, cached = ask(env, DOWNLOAD, CACHED)
    data = FILES[name]
    found = content_hash(name, data[:-1] + bytes([data[-1] ^ 1]))
    kind = "SHA-256" if len(found) == 64 else "git hash"
    assert refused["message"] == (
        f"someone/model: {name} arrived damaged: "
        f"found {kind} {found}, need {content_hash(name, data)}"
    )
    assert refused["hint"].endswith("Run again: codegen download someone/model")
    assert cached["path"] is None
    paths = {path.name for path in tmp_path.rglob("*")}
    assert not {name, content_hash(name, data)} & paths
    repository.flipped = set()
    hub.requests.clear()
    [answer] = ask(env, DOWNLOAD)
    assert hub.fetched_files() == NEEDED[NEEDED.index(name) :]
    assert contents(Path(answer["path"])) == {name: FILES[name] for name in NEEDED}


def test_a_hash_that_only_the_etag_agrees_with_is_refused(hub: HubServer, tmp_path: Path) -> None:
    repository = hub.repositories["someone/model"]
    name, data = "pytorch_model.bin", FILES["pytorch_model.bin"]
    repository.flipped = {name}
    repository.etags[name] = content_hash(name, data[:-1] + bytes([data[-1] ^ 1]))
    [answer] = ask(environment(hub.url, tmp_path), DOWNLOAD)
    assert "pytorch_model.bin arrived damaged" in answer["message"]


def test_a_flipped_index_does_not_stand_in_the_way_of_the_next_run(
    hub: HubServer, tmp_path: Path
) -> None:
    index = json.dumps({"weight_map": {"a": "x.safetensors"}}).encode()
    files = {name: FILES[name] for name in NEEDED[:2]}
    files |= {"model.safetensors.index.json": index, "x.safetensors": b"tensors"}
    repository = hub.repositories["someone/model"]
    repository.files, repository.flipped = files, {"model.safetensors.index.json"}
    env = environment(hub.url, tmp_path)
    [refused] = ask(env, DOWNLOAD)
    assert "model.safetensors.index.json arrived damaged" in refused["message"]
    repository.flipped = set()
    [answer] = ask(env, DOWNLOAD)
    path = Path(answer["path"]) / "model.safetensors.index.json"
    path.resolve().write_bytes(b"{")  # damaged later
    [again] = ask(env, DOWNLOAD)
    assert "is damaged: fetching it again" in again["stderr"]
    assert path.read_bytes() == index


def test_a_server_without_hashes_is_told_of(hub: HubServer, tmp_path: Path) -> None:
    repository = hub.repositories["someone/model"]
    repository.states_hashes = False
    repository.etags = {name: f"5f3e-{n}" for n, name in enumerate(FILES)}
    [answer] = ask(environment(hub.url, tmp_path), DOWNLOAD)
    assert contents(Path(answer["path"])) == {name: FILES[name] for name in NEEDED}
    for name in NEEDED:
        assert f"{hub.url} states no hash of {name}: not compared" in answer["stderr"]


def test_hashing_is_told_of_as_it_goes_on(hub: HubServer, tmp_path: Path) -> None:
    env = environment(hub.url, tmp_path)
    ask(env, DOWNLOAD)
    [answer] = ask(env, AGAIN)
    total_bytes = sum(len(FILES[name]) for name in NEEDED)
    done_bytes = [done for _, done, _ in answer["checks"]]
    assert {total for _, _, total in answer["checks"]} == {total_bytes}
    assert done_bytes == sorted(done_bytes)
    assert (done_bytes[0], done_bytes[-1]) == (0, total_bytes)


def test_a_cache_without_links_is_compared_with_the_hub(hub: HubServer, tmp_path: Path) -> None:
    """As on Windows: a blob is moved to where its link would be, and its name is lost."""
    repository = hub.repositories["someone/model"]
    env = environment(hub.url, tmp_path, HF_HUB_DISABLE_SYMLINKS="1")
    repository.flipped = {"pytorch_model.bin"}
    refused, cached = ask(env, DOWNLOAD, CACHED)
    assert "arrived damaged" in refused["message"]
    assert cached["path"] is None
    repository.flipped = set()
    [answer] = ask(env, DOWNLOAD)
    weights = Path(answer["path"]) / "pytorch_model.bin"
    assert not weights.is_symlink()
    flip_bit(weights, 7)
    [again] = ask(env, AGAIN)
    assert weights.read_bytes() == FILES["pytorch_model.bin"]
    ran = run_codegen(env | {"CODEGEN_HOME": str(tmp_path)}, "models", "verify", again["path"])
    assert ran.returncode == 0
    assert "unknown " in ran.stdout
    assert "not compared: the cache has no hash for it" in ran.stdout


def test_force_fetches_what_is_damaged_and_nothing_else(hub: HubServer, tmp_path: Path) -> None:
    env = environment(hub.url, tmp_path)
    [answer] = ask(env, DOWNLOAD)
    hub.requests.clear()
    [again] = ask(env, AGAIN)
    assert again["path"] == answer["path"]
    assert hub.fetched_files() == []
    for name in ("config.json", "pytorch_model.bin"):
        flip_bit((Path(answer["path"]) / name).resolve(), 5)
    [again] = ask(env, AGAIN)
    assert hub.fetched_files() == ["config.json", "pytorch_model.bin"]
    assert contents(Path(again["path"])) == {name: FILES[name] for name in NEEDED}


@pytest.mark.parametrize("fault", ["closed", "refused", "flipped"])
def test_force_never_loses_a_sound_file(hub: HubServer, tmp_path: Path, fault: str) -> None:
    env = environment(hub.url, tmp_path)
    [answer] = ask(env, DOWNLOAD)
    sound = {name: FILES[name] for name in NEEDED}
    repository = hub.repositories["someone/model"]
    if fault == "closed":
        env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    elif fault == "refused":
        repository.failing_status = 503
    else:
        repository.flipped = set(NEEDED)
    ask(env, AGAIN)
    assert contents(Path(answer["path"])) == sound
    if fault != "closed":
        flip_bit((Path(answer["path"]) / "config.json").resolve(), 5)
        [again] = ask(env, AGAIN)
        assert again["hint"]
        left = contents(Path(answer["path"]))
        left.pop("config.json", None)
        assert left == {name: sound[name] for name in NEEDED[1:]}


def test_force_fetches_what_is_new(hub: HubServer, tmp_path: Path) -> None:
    env = environment(hub.url, tmp_path)
    [old] = ask(env, DOWNLOAD)
    hub.repositories["someone/model"].files["config.json"] = b'{"model_type": "codegen", "a": 1}'
    [same] = ask(env, DOWNLOAD)
    assert same["path"] == old["path"]
    hub.requests.clear()
    [new] = ask(env, AGAIN)
    assert new["path"] != old["path"]
    assert hub.fetched_files() == ["config.json"]
    [cached] = ask(env, CACHED)
    assert cached["path"] == new["path"]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[HubServer, dict[str, str]]]:
    """A hub with a checkpoint that can be packed, and a user who downloaded it."""
    config = small_config()
    made = write_checkpoint(tmp_path / "made", config, random_tensors(config, 1))
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    with HubServer({"Salesforce/codegen-350M-mono": Repository(files)}) as server:
        env = environment(server.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path / "home"))
        assert run_codegen(env, "download", "-q", "350M-mono").returncode == 0
        yield server, env


def snapshot_of(env: dict[str, str]) -> Path:
    ran = run_codegen(env | {"HF_HUB_OFFLINE": "1"}, "download", "-q", "350M-mono")
    return Path(ran.stdout.rstrip("\n"))


def repair(env: dict[str, str], stderr: str) -> None:
    """Run the command that a hint names."""
    [command] = re.findall(r"(?:hint|codegen): Fetch it again: (.*)", stderr)
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        env = env | {name: value}
    ran = run_codegen(env, *words[1:])
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("way", ["name", "directory", "file", "complete"])
def test_a_checkpoint_is_compared_before_it_is_packed_and_the_hint_repairs_it(
    real: tuple[HubServer, dict[str, str]], tmp_path: Path, way: str
) -> None:
    hub, env = real
    snapshot = snapshot_of(env)
    [weights] = [path for path in snapshot.iterdir() if path.name.endswith((".bin", "tensors"))]
    flip_bit(weights.resolve(), -1000)
    command = {
        "name": ("quantize", "350M-mono"),
        "directory": ("quantize", f"{snapshot}/."),
        "file": ("quantize", str(weights)),
        "complete": ("complete", "-m", "350M-mono", "-n", "1", "x"),
    }[way]
    ran = run_codegen(env, *command)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"error: {weights} is damaged: found SHA-256 " in ran.stderr
    assert f"need {weights.readlink().name}" in ran.stderr
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    hub.requests.clear()
    repair(env, ran.stderr)
    assert hub.fetched_files() == [weights.name]
    ran = run_codegen(env, "quantize", "350M-mono")
    assert ran.returncode == 0, ran.stderr


def test_a_damaged_tokenizer_or_config_is_found_too(real: tuple[HubServer, dict[str, str]]) -> None:
    _, env = real
    for name in ("config.json", "tokenizer.json"):
        file = snapshot_of(env) / name
        flip_bit(file.resolve(), 3)
        ran = run_codegen(env, "quantize", "350M-mono")
        assert f"{file} is damaged: found git hash " in ran.stderr
        repair(env, ran.stderr)


def test_in_another_cache_the_hint_names_that_cache(
    real: tuple[HubServer, dict[str, str]], tmp_path: Path
) -> None:
    _, env = real
    snapshot = snapshot_of(env)
    flip_bit((snapshot / "config.json").resolve(), 3)
    elsewhere = env | {"HF_HOME": str(tmp_path / "other")}
    ran = run_codegen(elsewhere, "quantize", str(snapshot))
    assert f"HF_HUB_CACHE={tmp_path / 'hf' / 'hub'} codegen download --force" in ran.stderr
    repair(elsewhere, ran.stderr)
    assert run_codegen(elsewhere, "quantize", str(snapshot)).returncode == 0


def test_verify_compares_a_checkpoint_by_name_and_by_path(
    real: tuple[HubServer, dict[str, str]],
) -> None:
    _, env = real
    snapshot = snapshot_of(env)
    for model in ("350M-mono", str(snapshot), str(snapshot / "config.json")):
        ran = run_codegen(env, "models", "verify", model)
        assert ran.returncode == 0, ran.stderr
        assert re.fullmatch(rf"sound    {snapshot} \(\d+ files, .* MB in .* s\)\n", ran.stdout)
    flip_bit((snapshot / "config.json").resolve(), 3)
    ran = run_codegen(env, "models", "verify", "350M-mono")
    assert ran.returncode == 1
    assert ran.stdout.startswith(f"damaged  {snapshot / 'config.json'}: found git hash ")
    report = run_codegen(env, "models", "verify", "350M-mono", "--json")
    [told] = json.loads(report.stdout)["files"]
    assert not told["is_sound"]
    assert [each["file"] for each in told["damaged"]] == ["config.json"]
    assert told["unknown"] == []
    repair(env, ran.stderr)
    assert run_codegen(env, "quantize", "350M-mono").returncode == 0
    both = run_codegen(env, "models", "verify", "350M-mono").stdout.splitlines()
    assert [line.split()[0] for line in both] == ["sound", "sound"]
    assert len(run_codegen(env, "models", "verify", "350M-mono:int8").stdout.splitlines()) == 1


def test_rm_removes_a_checkpoint_when_asked_for_it(real: tuple[HubServer, dict[str, str]]) -> None:
    _, env = real
    snapshot = snapshot_of(env)
    ran = run_codegen(env, "models", "rm", "350M-mono", "--yes")
    assert ran.returncode == 1
    assert "codegen models rm --checkpoint 350M-mono" in ran.stderr
    ran = run_codegen(env, "models", "rm", "350M-mono", "--checkpoint")
    assert ran.returncode == 2
    assert "--yes" in ran.stderr
    assert snapshot.is_dir()
    assert run_codegen(env, "models", "default", "350M-mono").returncode == 0
    ran = run_codegen(env, "models", "rm", "350M-mono", "--checkpoint", "--yes", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert [each["path"] for each in told["removed"]] == [str(snapshot)]
    assert told["removed"][0]["bytes"] > 10_000
    assert told["default_was_reset"]
    assert not snapshot.parent.parent.exists()
    ran = run_codegen(env, "models", "rm", "350M-mono", "--checkpoint", "--yes")
    assert ran.returncode == 1
    assert "no checkpoint of 350M-mono in " in ran.stderr


@pytest.mark.parametrize("has_a_tag", [True, False])
def test_rm_keeps_what_another_branch_or_tag_needs_and_nothing_else(
    hub: HubServer, tmp_path: Path, has_a_tag: bool
) -> None:
    env = environment(hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path / "home"))
    [old] = ask(env, DOWNLOAD)
    repository = hub.repositories["someone/model"]
    repository.files["config.json"] = b'{"model_type": "codegen", "a": 1}'
    [new] = ask(env, AGAIN)
    before = Path(old["path"])
    if has_a_tag:
        (before.parent.parent / "refs" / "v1").write_text(before.name)
    ran = run_codegen(env, "models", "rm", "someone/model", "--checkpoint", "--yes")
    assert ran.returncode == 0, ran.stderr
    assert not Path(new["path"]).exists()
    assert before.exists() is has_a_tag  # what a newer download left behind goes with it
    if has_a_tag:
        assert contents(before) == {name: FILES[name] for name in NEEDED}


@pytest.mark.parametrize("name", ["nano", "350M-mono:int8", "./made", "350M-momo"])
def test_rm_of_what_is_no_checkpoint_in_the_cache_is_refused(
    real: tuple[HubServer, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    _, env = real
    name = name.replace("./made", str(tmp_path / "made"))
    ran = run_codegen(env, "models", "rm", name, "--checkpoint", "--yes")
    assert (ran.returncode, ran.stdout) == (1, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")


def test_a_checkpoint_from_elsewhere_is_packed_as_it_is(
    real: tuple[HubServer, dict[str, str]], tmp_path: Path
) -> None:
    _, env = real
    ran = run_codegen(env, "quantize", str(tmp_path / "made"))
    assert ran.returncode == 0
    assert "compared" not in ran.stderr


def test_verify_of_a_pipe_in_the_cache_does_not_wait(
    real: tuple[HubServer, dict[str, str]],
) -> None:
    _, env = real
    blob = (snapshot_of(env) / "config.json").resolve()
    blob.unlink()
    os.mkfifo(blob)
    ran = run_codegen(env, "quantize", "350M-mono")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
