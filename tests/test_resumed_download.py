"""Downloads over bad networks, and after kills: they go on, and end with the file."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import AGAIN, CLIENT, DOWNLOAD, FILES, ask, environment, run_codegen
from hub_server import Fault, HubServer, Repository, content_hash

WEIGHTS = "pytorch_model.bin"
DATA = random.Random(17).randbytes(1_000_000)
MODEL = FILES | {WEIGHTS: DATA}
NAME = "someone/model"


@pytest.fixture(params=["lfs", "xet"])
def storage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({NAME: Repository(dict(MODEL), storage="lfs")}) as server:
        yield server


@pytest.fixture
def repository(hub: HubServer) -> Repository:
    return hub.repositories[NAME]


@pytest.fixture
def env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return environment(hub.url, tmp_path / "hf", CODEGEN_HOME=str(tmp_path / "home"))


def weights_in(directory: str) -> bytes:
    return (Path(directory) / WEIGHTS).read_bytes()


def blob(tmp_path: Path, suffix: str = "", data: bytes = DATA) -> Path:
    name = content_hash(WEIGHTS, data) + suffix
    return tmp_path / "hf" / "hub" / "models--someone--model" / "blobs" / name


def part(tmp_path: Path) -> Path:
    return blob(tmp_path, ".codegen.incomplete")


def sums(tmp_path: Path) -> Path:
    return blob(tmp_path, ".codegen.sums.incomplete")


def left_over(tmp_path: Path) -> list[Path]:
    hidden = [path for path in tmp_path.rglob(".*") if path.name != ".locks"]
    return [*tmp_path.rglob("*.incomplete"), *hidden]


def started(env: dict[str, str], stall: Fault) -> "subprocess.Popen[str]":
    """Start a download; return once the hub has stopped in the middle of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "codegen_cli", "download", NAME],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stall.stalled.wait(60)
    return process


def wait_for_bytes(path: Path, n_bytes: int) -> None:
    for _ in range(600):
        if path.exists() and path.stat().st_size >= n_bytes:
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"{path} did not grow to {n_bytes} bytes")


def stopped_part(
    env: dict[str, str], repository: Repository, tmp_path: Path, signal_number: int
) -> None:
    """Fetch 600,000 bytes, in a process that a signal then ends."""
    stall = Fault(WEIGHTS, stall_after_bytes=600_000, times=1)
    repository.faults = [stall]
    with started(env, stall) as process:
        wait_for_bytes(part(tmp_path), 590_000)
        wait_for_bytes(sums(tmp_path), 4096)
        process.send_signal(signal_number)
        stdout, stderr = process.communicate(timeout=60)
    assert stdout == ""
    assert "Traceback" not in stderr


def test_a_file_that_is_cut_at_every_tenth_is_fetched_once(
    hub: HubServer, repository: Repository, env: dict[str, str], storage: str
) -> None:
    repository.storage = storage
    repository.faults = [Fault(WEIGHTS, cut_after_bytes=100_000)]
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    assert hub.fetched_bytes(WEIGHTS) == len(DATA)
    starts = [r.range for r in hub.storage_requests() if r.kind == "bytes"]
    assert starts == [f"bytes={start}-" for start in range(0, len(DATA), 100_000)]


def test_interrupted_by_ctrl_c_it_tells_what_is_kept_and_goes_on_from_there(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    stall = Fault(WEIGHTS, stall_after_bytes=600_000, times=1)
    repository.faults = [stall]
    with started(env, stall) as process:
        wait_for_bytes(part(tmp_path), 600_000)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = "codegen: 600 kB of 1 MB are kept: the same command goes on from there"
    assert kept in stderr
    sent_bytes = hub.fetched_bytes(WEIGHTS)
    ran = run_codegen(env, "download", NAME)
    assert "(600 kB are there)" in ran.stderr
    assert weights_in(ran.stdout.strip()) == DATA
    assert hub.fetched_bytes(WEIGHTS) - sent_bytes == 400_000
    assert not left_over(tmp_path)


def test_a_killed_download_goes_on_from_the_last_stretch(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    """Of the bytes since then nobody knows whether a power cut has left them as they were."""
    stall = Fault(WEIGHTS, stall_after_bytes=400_000, times=1)
    drip = Fault(WEIGHTS, bytes_per_second=200_000, times=1)
    repository.faults = [stall, drip]
    with started(env, stall) as process:
        wait_for_bytes(sums(tmp_path), 4096 + 12)  # a second has passed: there is a sum
        process.kill()
        process.communicate(timeout=60)
    drip.times = 0
    hub.requests.clear()
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    [request] = [each for each in hub.storage_requests() if each.kind == "bytes"]
    start = int(request.range.removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 400_000
    assert not left_over(tmp_path)


@pytest.mark.parametrize("damage", ["tail", "longer", "shorter", "sums", "no sums", "header"])
def test_what_no_sum_confirms_is_fetched_again(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path, damage: str
) -> None:
    stopped_part(env, repository, tmp_path, signal.SIGTERM)
    content = bytearray(part(tmp_path).read_bytes())
    there = len(content)
    if damage == "tail":
        content[-1] ^= 1
    if damage == "longer":
        content += b"\0" * 5000
    part(tmp_path).write_bytes(content[:-7] if damage == "shorter" else content)
    stated = bytearray(sums(tmp_path).read_bytes())
    if damage == "sums":
        stated[4096:4104] = b"\xff" * 8
    if damage == "header":
        stated[0] = 0
    sums(tmp_path).write_bytes(stated)
    if damage == "no sums":
        sums(tmp_path).unlink()
    sent_bytes = hub.fetched_bytes(WEIGHTS)
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    again = hub.fetched_bytes(WEIGHTS) - sent_bytes
    assert again == len(DATA) - there if damage == "longer" else again > len(DATA) - there
    assert not left_over(tmp_path)


def test_the_kept_part_is_read_with_progress(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    stopped_part(env, repository, tmp_path, signal.SIGTERM)
    there = part(tmp_path).stat().st_size
    [answer] = ask(env, DOWNLOAD)
    assert [WEIGHTS, there, there] in answer["checks"]
    total = sum(len(MODEL[name]) for name in ("config.json", "tokenizer.json", WEIGHTS))
    assert answer["events"][-1] == [WEIGHTS, total, total]


def test_the_token_reaches_the_hub_and_no_other_host(
    hub: HubServer, repository: Repository, env: dict[str, str]
) -> None:
    repository.token = "hf_secret"
    repository.redirects_small = True
    [answer] = ask(env | {"HF_TOKEN": "hf_secret"}, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    assert {request.authorization for request in hub.storage_requests()} == {""}
    asked = [request for request in hub.requests if NAME in request.path]
    others = [request for request in asked if request not in hub.storage_requests()]
    assert {request.authorization for request in others} == {"Bearer hf_secret"}


def test_a_link_that_has_expired_is_asked_for_again(
    hub: HubServer, repository: Repository, env: dict[str, str]
) -> None:
    repository.url_answers = 1
    repository.faults = [Fault(WEIGHTS, cut_after_bytes=300_000)]
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    assert hub.fetched_bytes(WEIGHTS) == len(DATA)


def test_links_that_are_always_refused_are_told_and_the_part_stays(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    repository.faults = [
        Fault(WEIGHTS, cut_after_bytes=300_000, times=1),
        Fault(WEIGHTS, after=1, status=403),
    ]
    [answer] = ask(env, DOWNLOAD)
    assert "gives links to files of someone/model that are answered 403" in answer["message"]
    assert "goes on with what is there" in answer["hint"]
    assert part(tmp_path).read_bytes() == DATA[:300_000]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, "bytes"),
        (429, "api"),
        (429, "metadata"),
        (429, "bytes"),
        (500, "metadata"),
        (502, "bytes"),
        (503, "api"),
        (503, "bytes"),
        (504, "metadata"),
    ],
)
def test_a_hub_in_trouble_is_waited_for(
    repository: Repository, env: dict[str, str], status: int, kind: str
) -> None:
    repository.faults = [
        Fault("*", kind=kind, status=status, times=2, headers={"Retry-After": "7"})
    ]
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    assert answer["stderr"].count("codegen: the hub asks to wait 7 s\n") == 2


def test_a_wait_beyond_the_bound_is_told_instead(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    repository.faults = [
        Fault(WEIGHTS, cut_after_bytes=300_000, times=1),
        Fault(WEIGHTS, after=1, status=429, headers={"Retry-After": "4000"}),
    ]
    [answer] = ask(env, DOWNLOAD)
    assert "answered 429" in answer["message"]
    assert answer["hint"].startswith("Wait 4000 s, then run the same command again")
    assert part(tmp_path).stat().st_size == 300_000


def test_a_server_without_ranges_sends_all_again_and_no_byte_is_wrong(
    repository: Repository, env: dict[str, str]
) -> None:
    repository.faults = [
        Fault(WEIGHTS, cut_after_bytes=300_000, times=1),
        Fault(WEIGHTS, ignores_range=True),
    ]
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    told = f"codegen: {WEIGHTS}: the server sends whole files only\n"
    assert answer["stderr"].count(told) == 1


def test_a_refused_range_is_no_end(repository: Repository, env: dict[str, str]) -> None:
    repository.faults = [
        Fault(WEIGHTS, cut_after_bytes=300_000, times=1),
        Fault(WEIGHTS, after=1, times=1, status=416, headers={"Content-Range": "bytes */7"}),
    ]
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA


def test_a_connection_that_stalls_is_given_up_for_a_new_one(
    hub: HubServer, repository: Repository, env: dict[str, str]
) -> None:
    repository.faults = [Fault(WEIGHTS, stall_after_bytes=300_000, times=2)]
    [answer] = ask(env | {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    assert hub.fetched_bytes(WEIGHTS) == len(DATA)


def test_a_file_that_is_shorter_than_stated_is_no_endless_work(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    repository.faults = [Fault(WEIGHTS, content=DATA[:-1000])]
    [answer] = ask(env, DOWNLOAD)
    told = f"{WEIGHTS} is sent with 999000 bytes, need 1000000, again and again"
    assert told in answer["message"]
    assert not blob(tmp_path).exists()


def test_a_file_that_changes_on_the_hub_starts_over_saying_so(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    new = random.Random(18).randbytes(900_000)
    cut = Fault(WEIGHTS, cut_after_bytes=300_000, times=1)
    repository.faults = [cut, Fault(WEIGHTS, kind="", after=2, content=new)]
    repository.states_hashes = False
    repository.stated_bytes = {WEIGHTS: len(DATA)}
    [answer] = ask(env, DOWNLOAD)
    told = f"{WEIGHTS} has changed on the hub meanwhile: starting over"
    assert told in answer["stderr"]


def test_what_was_begun_is_finished_though_the_branch_has_moved(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    stopped_part(env, repository, tmp_path, signal.SIGTERM)
    old = repository.commit
    new_weights = DATA[::-1]
    new = repository.push({WEIGHTS: new_weights, "README.md": b"news"})
    [answer] = ask(env, DOWNLOAD)
    assert Path(answer["path"]).name == old
    assert weights_in(answer["path"]) == DATA
    assert "main of someone/model has moved on since this was begun" in answer["stderr"]
    assert "codegen download --force someone/model" in answer["stderr"]
    [newest] = ask(env, AGAIN)
    assert Path(newest["path"]).name == new
    assert weights_in(newest["path"]) == new_weights
    assert not left_over(tmp_path)


def test_where_the_commit_that_was_begun_has_gone_the_newest_is_fetched(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    stopped_part(env, repository, tmp_path, signal.SIGTERM)
    old = repository.commit
    repository.files = repository.files | {"config.json": b'{"model_type": "codegen", "b": 1}'}
    [answer] = ask(env, DOWNLOAD)
    assert f"someone/model has no {old[:12]} any more" in answer["stderr"]
    assert Path(answer["path"]).name == repository.commit
    assert weights_in(answer["path"]) == DATA  # the same content: its part served
    assert not left_over(tmp_path)


SHARDS = ["model-1.safetensors", "model-2.safetensors"]


def sharded(shards: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a repository whose weights are these two."""
    weight_map = dict(zip("ab", SHARDS, strict=True))
    index = {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
    return {name: FILES[name] for name in ("config.json", "tokenizer.json")} | shards | index


def test_all_shards_are_of_the_commit_that_was_begun(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    names, shards = SHARDS, {name: name.encode() * 1000 for name in SHARDS}
    repository.files = sharded(shards)
    stall = Fault(names[1], kind="metadata", stall_after_bytes=0, times=1)
    hub.before_answer = lambda path: (
        stall.stalled.set() or stall.goes_on.wait(60) if path.endswith(names[1]) else None
    )
    with started(env, stall) as process:
        process.kill()
        process.communicate(timeout=60)
    hub.before_answer = lambda path: None
    stall.goes_on.set()
    old = repository.commit
    repository.push({names[1]: b"another model's"})
    [answer] = ask(env, DOWNLOAD)
    assert Path(answer["path"]).name == old
    assert (Path(answer["path"]) / names[1]).read_bytes() == shards[names[1]]
    assert not left_over(tmp_path)


def test_a_shard_that_is_half_there_goes_on(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    names = SHARDS
    repository.files = sharded({name: DATA[i:] for i, name in enumerate(names)})
    repository.faults = [
        Fault(names[0], cut_after_bytes=400_000, times=1),
        Fault(names[0], after=1, times=1, status=400),
        Fault(names[0], kind="metadata", after=2, times=1, status=404),
    ]
    [broken] = ask(env, DOWNLOAD)
    assert "answered 404" in broken["message"]
    sent_bytes = hub.fetched_bytes(names[0])
    [answer] = ask(env, DOWNLOAD)
    assert hub.fetched_bytes(names[0]) - sent_bytes == len(DATA) - 400_000
    assert (Path(answer["path"]) / names[0]).read_bytes() == DATA


def test_of_a_wrong_hash_nothing_is_kept(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    repository.flipped = {WEIGHTS}
    [answer] = ask(env, DOWNLOAD)
    assert "pytorch_model.bin arrived damaged: found SHA-256 " in answer["message"]
    assert not left_over(tmp_path)
    assert not blob(tmp_path).exists()


def test_a_full_disk_keeps_the_part(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    env |= {"PYTHONDONTWRITEBYTECODE": "1"}
    [answer] = ask(env, DOWNLOAD, preexec_fn=limit_file_size)
    assert answer["message"].startswith(f"cannot store {NAME} in {tmp_path / 'hf' / 'hub'}: ")
    there = part(tmp_path).stat().st_size
    sent_bytes = hub.fetched_bytes(WEIGHTS)
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    assert hub.fetched_bytes(WEIGHTS) - sent_bytes == len(DATA) - there


def test_a_cache_that_is_pruned_in_the_middle_costs_nothing(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    stall = Fault(WEIGHTS, stall_after_bytes=600_000, times=1)
    repository.faults = [stall]
    with started(env, stall) as process:
        wait_for_bytes(part(tmp_path), 600_000)
        shutil.rmtree(part(tmp_path).parent.parent)  # with config and tokenizer
        stall.goes_on.set()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert weights_in(stdout.strip()) == DATA
    assert (Path(stdout.strip()) / "config.json").read_bytes() == FILES["config.json"]
    assert hub.fetched_bytes(WEIGHTS) == len(DATA)
    assert not left_over(tmp_path)


def test_of_two_downloads_at_once_one_waits_and_finds_it_done(
    hub: HubServer, repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    stall = Fault(WEIGHTS, stall_after_bytes=600_000, times=1)
    repository.faults = [stall]
    with (
        started(env, stall) as first,
        subprocess.Popen(
            first.args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as second,
    ):
        assert second.stderr is not None
        told = ""
        while "another program" not in told:
            told = second.stderr.readline()
            assert told
        assert told == f"codegen: another program is downloading {NAME}: waiting for it\n"
        stall.goes_on.set()
        outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert outputs[0] == outputs[1]
    assert weights_in(outputs[0].strip()) == DATA
    assert hub.fetched_bytes(WEIGHTS) == len(DATA)


def tree(directory: Path) -> dict[str, Any]:
    """What lies in a cache: links by where they lead, files by their content."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if not name.startswith((".locks", "CACHEDIR.TAG")) and not path.is_dir():
            found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes()
    return found


@pytest.mark.parametrize(
    ("revision", "links"),
    [
        ("main", "with links"),
        ("main", "without links"),
        ("refs/pr/1", "with links"),
        ("", "with links"),
    ],
)
def test_the_cache_is_as_the_client_would_have_left_it(
    hub: HubServer, tmp_path: Path, links: str, revision: str
) -> None:
    repository = hub.repositories[NAME]
    repository.tags = {"refs/pr/1": repository.commit}
    revision = revision or repository.commit
    settings = {"HF_HUB_DISABLE_SYMLINKS": "1"} if links == "without links" else {}
    settings |= {"HF_HUB_DISABLE_XET": "1"}
    ours = environment(hub.url, tmp_path / "ours", **settings)
    theirs = environment(hub.url, tmp_path / "theirs", **settings)
    ask(ours, ("download", NAME, revision))
    script = (
        "import sys; from huggingface_hub import hf_hub_download\n"
        "for name in sys.argv[2:]: hf_hub_download('someone/model', name, revision=sys.argv[1])"
    )
    names = ["config.json", "tokenizer.json", WEIGHTS]
    subprocess.run([sys.executable, "-c", script, revision, *names], env=theirs, check=True)
    assert tree(tmp_path / "ours" / "hub") == tree(tmp_path / "theirs" / "hub")


def test_the_client_finds_verifies_and_lists_what_was_fetched(
    hub: HubServer, repository: Repository, env: dict[str, str]
) -> None:
    repository.files = {name: MODEL[name] for name in ("config.json", "tokenizer.json", WEIGHTS)}
    repository.faults = [Fault(WEIGHTS, cut_after_bytes=300_000)]
    [answer] = ask(env, DOWNLOAD)
    script = (
        "from huggingface_hub import snapshot_download, scan_cache_dir\n"
        f"print(snapshot_download('{NAME}', local_files_only=True))\n"
        "found = scan_cache_dir()\n"
        "assert not found.warnings, found.warnings\n"
        "print(found.size_on_disk)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    place, size = found.stdout.split()
    assert place == answer["path"]
    assert int(size) == sum(len(data) for data in repository.files.values())
    verify = [str(Path(sys.executable).with_name("hf")), "cache", "verify", NAME]
    ran = subprocess.run(verify, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_hubs_own_command_prunes_a_part(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    hf = Path(sys.executable).with_name("hf")
    stopped_part(env, repository, tmp_path, signal.SIGTERM)
    help_text = subprocess.run([hf, "cache", "prune", "--help"], capture_output=True, text=True)
    if "incomplete" not in help_text.stdout:
        pytest.skip("this version of the client knows no parts")
    subprocess.run([hf, "cache", "prune", "--yes"], env=env, check=True, capture_output=True)
    assert not list(tmp_path.rglob("*.incomplete"))


SPLIT = """
import codegen_cli.hub.network.settings
from codegen_cli.hub.network.client_import import import_client
import_client()
from codegen_cli.hub.network import lanes, transfer
transfer.TRIAL_BYTES, transfer.TRIAL_SECONDS, lanes.CHUNK_BYTES = 50_000, 0.1, 20_000
"""


def test_several_connections_are_used_where_they_are_faster(
    hub: HubServer, repository: Repository, env: dict[str, str]
) -> None:
    repository.faults = [Fault(WEIGHTS, bytes_per_second=200_000)]  # of each connection
    answer = ask_with(env, SPLIT)
    assert weights_in(answer["path"]) == DATA
    ranges = [each.range for each in hub.storage_requests() if each.kind == "bytes"]
    chunks = [each for each in ranges if not each.endswith("-")]
    assert len(chunks) > 30  # it stayed with them
    assert len(ranges) - len(chunks) == 1


def test_a_cut_among_several_connections_loses_nothing(
    hub: HubServer, repository: Repository, env: dict[str, str]
) -> None:
    repository.faults = [
        Fault(WEIGHTS, bytes_per_second=200_000),
        Fault(WEIGHTS, after=9, times=3, cut_after_bytes=100),
    ]
    answer = ask_with(env, SPLIT)
    assert weights_in(answer["path"]) == DATA


def ask_with(env: dict[str, str], settings: str) -> dict[str, Any]:
    """Make the download with other settings of our modules."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", settings + CLIENT],
        input=json.dumps(DOWNLOAD) + "\n",
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_a_read_only_cache_is_named(hub: HubServer, env: dict[str, str], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is read-only to root")
    (tmp_path / "hf").mkdir(mode=0o500)
    [answer] = ask(env, DOWNLOAD)
    assert answer["message"].startswith(f"cannot store {NAME} in {tmp_path / 'hf' / 'hub'}")
    assert "HF_HOME" in answer["hint"]


def test_where_the_list_of_files_has_no_sizes_those_of_the_files_count(
    repository: Repository, env: dict[str, str]
) -> None:
    repository.storage = ""
    repository.stated_bytes = dict.fromkeys(MODEL, 0)
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
@pytest.mark.parametrize("path", [part, sums])
def test_what_has_a_parts_name_and_is_none_is_named(
    env: dict[str, str], tmp_path: Path, path: Callable[[Path], Path]
) -> None:
    blob(tmp_path).parent.mkdir(parents=True)
    os.mkfifo(path(tmp_path))
    [answer] = ask(env, DOWNLOAD)
    assert answer["message"] == f"{path(tmp_path)} is in the way: no regular file"
    assert answer["hint"] == "Remove it."


def test_a_part_that_is_somebodys_file_too_does_not_change_that(
    repository: Repository, env: dict[str, str], tmp_path: Path
) -> None:
    blob(tmp_path).parent.mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    os.link(precious, part(tmp_path))
    [answer] = ask(env, DOWNLOAD)
    assert weights_in(answer["path"]) == DATA
    assert precious.read_bytes() == b"mine"
