"""Parts of downloads in the hub's cache: of killed ones they go, of live ones they stay."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hub_client import FILES, environment, run_codegen
from hub_server import HubServer, Repository

from codegen_cli.hub.stored.unfinished import (
    is_being_fetched,
    remove_unfinished_download,
    unfinished_downloads,
)
from codegen_cli.terminal import console

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
# The client alone, as any other program of the hub uses it.
OTHER_PROGRAM = (
    "from huggingface_hub import hf_hub_download\n"
    "hf_hub_download('someone/model', 'pytorch_model.bin')\n"
)
CODEGEN = (
    "import sys, codegen_cli.__main__\n"
    "sys.argv[1:] = ['download', 'someone/model']\n"
    "codegen_cli.__main__.main()\n"
)


class Stall:
    """A hub that stops in the middle of the weights until it is told to go on."""

    def __init__(self) -> None:
        self.asked, self.goes_on = threading.Event(), threading.Event()
        self.hub = HubServer({"someone/model": Repository(dict(FILES))})
        self.hub.before_answer = self._stall

    def _stall(self, path: str) -> None:
        if path.endswith("/pytorch_model.bin") and self.hub.requests[-1].method == "GET":
            self.asked.set()
            self.goes_on.wait(120)


@pytest.fixture
def stall() -> Iterator[Stall]:
    stalled = Stall()
    with stalled.hub:
        yield stalled
        stalled.goes_on.set()


@pytest.fixture
def env(stall: Stall, tmp_path: Path) -> dict[str, str]:
    """The user's environment; the config of the model is in the cache already."""
    found = environment(stall.hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path / "home"))
    script = "from huggingface_hub import hf_hub_download as f; f('someone/model', 'config.json')"
    subprocess.run([sys.executable, "-c", script], env=found, check=True, capture_output=True)
    return found


def start(env: dict[str, str], stall: Stall, script: str) -> subprocess.Popen[bytes]:
    """Start a download; return once its part is in the cache."""
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert stall.asked.wait(60)
    return process


def leftovers(env: dict[str, str]) -> list[str]:
    ran = run_codegen(env, "models", "list", "--json")
    assert ran.returncode == 0, ran.stderr
    return [each["path"] for each in json.loads(ran.stdout)["leftovers"]]


@pytest.mark.parametrize("script", [CODEGEN, OTHER_PROGRAM], ids=["codegen", "another program"])
def test_a_live_download_keeps_its_part_and_a_killed_one_does_not(
    stall: Stall, env: dict[str, str], tmp_path: Path, script: str
) -> None:
    process = start(env, stall, script)
    [part] = set(tmp_path.rglob("*.incomplete")) - set(tmp_path.rglob("*.sums.incomplete"))
    part.write_bytes(bytes(126_000_000 // 1000))
    assert leftovers(env) == []
    ran = run_codegen(env, "models", "prune")
    assert "there is nothing to remove" in ran.stderr
    refused = run_codegen(env, "models", "rm", "someone/model", "--checkpoint", "--yes")
    assert "another program is downloading someone/model" in refused.stderr
    assert part.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert leftovers(env) == [str(part)]
    ran = run_codegen(env, "models", "list")
    row = next(line for line in ran.stdout.splitlines() if line.startswith("unfinished downloads"))
    n_bytes = 126_000 + (4096 if script is CODEGEN else 0)  # with its sums
    size = ["1", "126"] if script is OTHER_PROGRAM else ["2", "130"]
    assert row.split()[2:] == [*size, "kB", str(part.parents[2])]
    assert f"codegen models prune would free {size[1]} kB" in ran.stderr
    pruned = run_codegen(env, "models", "prune", "--json")
    assert json.loads(pruned.stdout)["removed"] == [
        {
            "kind": "download",
            "path": str(part),
            "bytes": n_bytes,
            "model": "someone/model",
        }
    ]
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_live_client_finishes_after_a_prune(
    stall: Stall, env: dict[str, str], tmp_path: Path
) -> None:
    process = start(env, stall, OTHER_PROGRAM)
    assert run_codegen(env, "models", "prune").returncode == 0
    stall.goes_on.set()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    [weights] = tmp_path.rglob("pytorch_model.bin")
    assert weights.read_bytes() == FILES["pytorch_model.bin"]


def test_the_next_download_removes_what_another_program_left(
    stall: Stall, env: dict[str, str], tmp_path: Path
) -> None:
    process = start(env, stall, OTHER_PROGRAM)
    process.kill()
    process.communicate(timeout=60)
    [part] = tmp_path.rglob("*.incomplete")
    size = console.size(part.stat().st_size)
    stall.goes_on.set()
    ran = run_codegen(env, "download", "someone/model")
    assert ran.returncode == 0, ran.stderr
    assert f"removed {part}, {size}: a download that was killed left it" in ran.stderr
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def part_of(cache: Path, repository: str, name: str = "aa.01234567.incomplete") -> Path:
    part = cache / repository / "blobs" / name
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"part")
    return part


def test_only_repositories_of_codegen_checkpoints_are_looked_at(cache: Path) -> None:
    known = part_of(cache, "models--Salesforce--codegen-350M-mono")
    mine = part_of(cache, "models--some--model")
    foreign = part_of(cache, "models--some--bert")
    part_of(cache, "datasets--some--data")
    for part, kind in ((mine, "codegen"), (foreign, "bert")):
        snapshot = part.parent.parent / "snapshots" / "0"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps({"model_type": kind}))
    assert unfinished_downloads() == [known, mine]
    assert unfinished_downloads("some/bert") == [foreign]
    assert unfinished_downloads("no/such") == unfinished_downloads("a--b/c") == []


def test_a_lock_that_is_held_keeps_a_part_of_either_name(cache: Path) -> None:
    old = part_of(cache, "models--some--model", "aa.incomplete")
    new = part_of(cache, "models--some--model", "aa.89abcdef.incomplete")
    other = part_of(cache, "models--some--model", "bb.89abcdef.incomplete")
    locks = cache / ".locks" / "models--some--model"
    locks.mkdir(parents=True)
    with FileLock(locks / "aa.lock"):
        assert unfinished_downloads("some/model") == [other]
        assert is_being_fetched("some/model")
        assert not remove_unfinished_download(old)
        assert not remove_unfinished_download(new)
    assert unfinished_downloads("some/model") == [new, old, other]
    assert not is_being_fetched("some/model")
    assert all(map(remove_unfinished_download, (old, new, other)))
    assert not remove_unfinished_download(new)


def test_nothing_is_made_to_look(cache: Path) -> None:
    part_of(cache, "models--some--model")
    before = sorted(cache.rglob("*"))
    assert len(unfinished_downloads("some/model")) == 1
    assert sorted(cache.rglob("*")) == before


def test_what_is_no_plain_file_stays(cache: Path) -> None:
    target = part_of(cache, "models--some--model", "aa")
    blobs = target.parent
    (blobs / "aa.01234567.incomplete").symlink_to(target)
    (blobs / "bb.incomplete").mkdir()
    os.mkfifo(blobs / "cc.incomplete")
    assert unfinished_downloads("some/model") == []
    assert not is_being_fetched("some/model")


def test_a_second_download_says_that_it_waits_for_the_first(
    stall: Stall, env: dict[str, str], tmp_path: Path
) -> None:
    first = start(env, stall, OTHER_PROGRAM)
    second = subprocess.Popen(
        [sys.executable, "-c", CODEGEN],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert second.stderr is not None
    lines = [second.stderr.readline(), second.stderr.readline()]
    assert "another program is downloading someone/model: waiting for it" in lines[1]
    stall.goes_on.set()
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 0, stderr
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert stall.hub.fetched_files().count("pytorch_model.bin") == 1
