"""codegen download: what it shows, asks, packs and removes, with a hub on 127.0.0.1."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from hub_client import environment, run_codegen
from hub_server import Fault, HubServer, Repository
from pseudo_terminal import codegen_on_terminal

from codegen_cli.commands.download import _pack
from codegen_cli.models.registry import known_entry, packed_path
from quantize.files.errors import UserError

NAME, OTHER = "Salesforce/codegen-350M-mono", "Salesforce/codegen-350M-nl"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    config = small_config()
    made = write_checkpoint(
        tmp_path_factory.mktemp("made") / "made", config, random_tensors(config, 1)
    )
    return {path.name: path.read_bytes() for path in made.iterdir()}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[HubServer]:
    with HubServer({NAME: Repository(dict(files)), OTHER: Repository(dict(files))}) as server:
        yield server


@pytest.fixture
def env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return environment(hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path / "home"))


def weights(files: dict[str, bytes]) -> str:
    [name] = [name for name in files if name.endswith((".bin", ".safetensors"))]
    return name


def checkpoints(tmp_path: Path) -> list[str]:
    return sorted(path.parent.parent.name for path in tmp_path.glob("hf/hub/models--*/snapshots/*"))


def test_with_a_format_the_packed_file_stays_and_the_checkpoint_goes(
    env: dict[str, str], tmp_path: Path
) -> None:
    assert run_codegen(env, "download", "350M-nl").returncode == 0  # of the same commit
    ran = run_codegen(env, "download", "350M-mono", "--format", "int4")
    assert ran.returncode == 0, ran.stderr
    packed = Path(ran.stdout.rstrip("\n"))
    assert packed == tmp_path / "home" / "models" / "350M-mono.int4.safetensors"
    assert packed.exists()
    assert "removed the checkpoint; --keep would have kept it" in ran.stderr
    assert checkpoints(tmp_path) == ["models--Salesforce--codegen-350M-nl"]
    assert not list(tmp_path.rglob("*.incomplete"))
    assert not [path for path in (tmp_path / "home" / "cache").rglob("*") if path.is_file()]
    again = run_codegen(env, "download", "350M-mono:int4")
    assert (again.returncode, again.stdout) == (0, ran.stdout)
    assert again.stderr == "codegen: 350M-mono is packed as int4\n"


def test_a_checkpoint_that_is_to_be_kept_or_was_there_stays(
    hub: HubServer, env: dict[str, str], tmp_path: Path
) -> None:
    run_codegen(env, "download", "350M-mono", "--format", "int8", "--keep")
    kept = ["models--Salesforce--codegen-350M-mono"]
    assert checkpoints(tmp_path) == kept
    hub.requests.clear()
    ran = run_codegen(env, "download", "350M-mono", "--format", "int4")
    assert ran.returncode == 0, ran.stderr
    assert hub.requests == []
    assert checkpoints(tmp_path) == kept


def test_a_run_that_was_killed_before_packing_leaves_the_removal_to_the_next(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    stall = Fault(weights(files), stall_after_bytes=1000, times=1)
    hub.repositories[NAME].faults = [stall]
    command = [sys.executable, "-m", "codegen_cli", "download", "350M-mono", "--format", "int8"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
        assert stall.stalled.wait(60)
        process.send_signal(signal.SIGKILL)
    assert run_codegen(env, *command[3:]).returncode == 0
    assert checkpoints(tmp_path) == []
    hub.repositories[NAME].faults = []
    stall.goes_on.set()


def test_a_later_download_without_a_format_keeps_what_was_to_be_packed(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    hub.repositories[NAME].flipped = {weights(files)}
    assert run_codegen(env, "download", "350M-mono", "--format", "int8").returncode == 1
    hub.repositories[NAME].flipped = set()
    assert run_codegen(env, "download", "350M-mono").returncode == 0
    assert run_codegen(env, "download", "350M-mono", "--format", "int8").returncode == 0
    assert checkpoints(tmp_path) == ["models--Salesforce--codegen-350M-mono"]


def test_a_dry_run_shows_sizes_and_places_and_writes_nothing(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    ran = run_codegen(env, "download", "350M-mono", "--format", "int4", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    facts = dict(line.split(maxsplit=1) for line in ran.stdout.splitlines())
    commit = hub.repositories[NAME].commit
    assert facts["repository"] == f"{NAME} at {commit[:12]}"
    assert facts["checkpoint"] == "3 files, 2 MB"
    assert "to fetch    " in ran.stdout
    assert facts["into"].startswith(f"{tmp_path / 'hf' / 'hub'}, ")
    place = tmp_path / "home" / "models" / "350M-mono.int4.safetensors"
    assert f"{place}, 0.3 GB, the same disk" in ran.stdout
    assert not (tmp_path / "hf").exists()
    assert hub.fetched_files() == []


def test_what_does_not_fit_together_is_said_before_anything_is_fetched(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    """The weights alone fit; the room for the packed file is what is missing."""
    import shutil

    free = shutil.disk_usage(tmp_path).free
    hub.repositories[NAME].stated_bytes = {weights(files): free - 350_000_000}
    ran = run_codegen(env, "download", "350M-mono", "--format", "f16")
    assert ran.returncode == 1
    assert "do not fit together" in ran.stderr
    assert "(0.7 GB)" in ran.stderr
    assert "HF_HOME puts the checkpoint on another disk" in ran.stderr
    assert hub.fetched_files() == []


def test_on_a_terminal_it_asks_before_five_gigabytes(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    hub.repositories[NAME].stated_bytes = {weights(files): 5_100_000_000}
    shown, ended = codegen_on_terminal(
        "download", "350M-mono", typed=b"n\n", **(env | {"HF_HUB_OFFLINE": ""})
    )
    assert ended == 1
    assert "Fetch 5.1 GB? [y/N]" in shown
    assert "nothing was fetched" in shown
    assert hub.fetched_files() == []
    off = run_codegen(env, "download", "350M-mono")  # off a terminal nobody is asked
    assert "config.json" in hub.fetched_files()
    assert "Fetch 5.1 GB?" not in off.stderr


def test_a_revision_has_a_packed_file_of_its_own(
    hub: HubServer, env: dict[str, str], tmp_path: Path
) -> None:
    repository = hub.repositories[NAME]
    repository.tags = {"refs/pr/3": repository.commit}
    repository.push({"README.md": b"newer"})
    arguments = ("download", "350M-mono", "--revision", "refs/pr/3", "--format", "int8")
    ran = run_codegen(env, *arguments)
    assert ran.returncode == 0, ran.stderr
    ended = run_codegen(env, "models", "path", "350M-mono@refs/pr/3:int8")
    assert ended.stdout == ran.stdout
    assert run_codegen(env, "models", "path", "350M-mono").returncode == 1


def test_without_a_model_it_lists_what_there_is(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    run_codegen(env, "download", "350M-nl")
    hub.repositories[NAME].faults = [
        Fault(weights(files), cut_after_bytes=60_000),
        Fault(weights(files), kind="metadata", after=1, status=404),
    ]
    assert run_codegen(env, "download", "350M-mono").returncode == 1
    ran = run_codegen(env, "download")
    rows = {line.split()[0]: line for line in ran.stdout.splitlines()}
    assert len(rows) == 13
    assert rows["350M-nl"].endswith("checkpoint")
    assert rows["350M-mono"].endswith("begun: 60 kB")
    assert "0.8 GB" in rows["350M-mono"]


def test_progress_is_told_in_plain_lines_off_a_terminal(
    hub: HubServer, env: dict[str, str], files: dict[str, bytes]
) -> None:
    size = len(files[weights(files)])
    hub.repositories[NAME].faults = [Fault(weights(files), bytes_per_second=size / 8)]
    ran = run_codegen(env, "download", "350M-mono")
    assert ran.returncode == 0, ran.stderr
    told = [line for line in ran.stderr.splitlines() if line.startswith("codegen: 350M-mono: ")]
    assert told
    assert all(line.endswith(" left") and "kB/s, " in line and " MB of " in line for line in told)


CACHE_FILES = (
    "import sys; from huggingface_hub import hf_hub_download\n"
    "for name in sys.argv[2:]: hf_hub_download(sys.argv[1], name)"
)


def test_what_other_programs_had_of_a_checkpoint_stays(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    hub.repositories[NAME].push({"README.md": b"# A model"})
    there = ["tokenizer.json", "README.md"]
    command = [sys.executable, "-c", CACHE_FILES, NAME, *there]
    subprocess.run(command, env=env, check=True, capture_output=True)
    [snapshot] = tmp_path.glob("hf/hub/models--*/snapshots/*")
    ran = run_codegen(env, "download", "350M-mono", "--format", "int8")
    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(there)
    assert all(path.resolve().is_file() for path in snapshot.iterdir())
    blobs = snapshot.parent.parent / "blobs"
    assert len(list(blobs.iterdir())) == len(there)


def test_a_snapshot_that_no_ref_is_at_stays(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    commit = hub.repositories[NAME].commit
    assert run_codegen(env, "download", f"350M-mono@{commit}").returncode == 0
    assert run_codegen(env, "download", "350M-mono", "--format", "int8").returncode == 0
    [snapshot] = tmp_path.glob("hf/hub/models--*/snapshots/*")
    assert {path.name for path in snapshot.iterdir()} >= {weights(files), "config.json"}


def test_the_branch_is_at_the_older_commit_again_where_that_is_kept(
    hub: HubServer, env: dict[str, str], tmp_path: Path
) -> None:
    old = run_codegen(env, "download", "350M-mono").stdout
    hub.repositories[NAME].push({"config.json": hub.repositories[NAME].files["config.json"] + b" "})
    ran = run_codegen(env, "download", "350M-mono", "--force", "--format", "int8")
    assert ran.returncode == 0, ran.stderr
    hub.requests.clear()
    assert run_codegen(env, "download", "350M-mono").stdout == old
    assert hub.requests == []


def test_of_two_that_download_and_pack_the_same_both_have_it_and_one_did_it(
    hub: HubServer, env: dict[str, str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    stall = Fault(weights(files), stall_after_bytes=1000, times=1)
    hub.repositories[NAME].faults = [stall]
    command = [sys.executable, "-m", "codegen_cli", "download", "350M-mono", "--format", "int8"]
    first, second = (
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    )
    assert stall.stalled.wait(60)
    stall.goes_on.set()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert hub.fetched_bytes(weights(files)) == len(files[weights(files)])
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_checkpoint_that_another_process_is_removing_is_no_error(
    is_whole: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    entry = known_entry("350M-mono")
    target = packed_path(entry.name, "int8")
    target.parent.mkdir(parents=True)
    target.touch()  # what the other one has packed
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    names = ["config.json", "tokenizer.json"]
    for name in names[: 2 if is_whole else 1]:
        (directory / name).write_text("{}")
    plan = SimpleNamespace(files=[SimpleNamespace(name=name) for name in names])
    if is_whole:  # it is of no use, whoever has packed one that was
        with pytest.raises(UserError):
            _pack(entry, "int8", directory, plan, keep=True)
    else:
        assert _pack(entry, "int8", directory, plan, keep=True) == target
