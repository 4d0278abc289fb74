"""A model that is killed at random moments of its download and packing -> how often it survived.

    python benchmarks/soak.py [--kills 50] [--seed 0] [--shape small] [--format int4]

A hub on 127.0.0.1 (tests/hub_server.py) holds a random checkpoint and sends it slowly. `codegen
download --format`, the same with --keep, and `codegen quantize` run again and again with SIGKILL at
moments drawn evenly from what an undisturbed run takes, until they end by themselves; then their
files must be those of the undisturbed run. Linux only; exit status 1 if a kill was not survived.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from checkpoints import random_tensors, small_config, write_checkpoint  # noqa: E402
from hub_client import environment  # noqa: E402
from hub_server import Fault, HubServer, Repository  # noqa: E402

from benchmarks.make_checkpoint import make_config  # noqa: E402

NAME, WEIGHTS = "someone/soak", "pytorch_model.bin"
SHAPES: dict[str, Callable[[], dict[str, object]]] = {
    "tiny": small_config,
    "small": lambda: make_config("350M") | {"n_layer": 4, "n_embd": 256, "n_head": 4},
    "350M": lambda: make_config("350M"),
}
URL_SECONDS = 1.0  # after which a redirect's target says 403
# Of one run of a command; a machine that is too slow for them is no fault of the product.
LIMIT_SECONDS = 3600
ORPHAN_SECONDS = 10
OFFLINE = f"from huggingface_hub import snapshot_download as f; print(f({NAME!r}))"


@dataclass
class Place:
    """A user's directories, and the environment that has them and the hub."""

    root: Path
    env: dict[str, str]

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run Python to its end."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.env | changes,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )

    def clear(self) -> None:
        for path in self.root.iterdir():
            shutil.rmtree(path)

    def files(self) -> dict[str, str]:
        """The SHA-256 of each file by its path; of a link, the name it leads to."""
        paths = [path for path in self.root.rglob("*") if path.is_symlink() or path.is_file()]
        return {str(path.relative_to(self.root)): _fingerprint(path) for path in sorted(paths)}


def _fingerprint(path: Path) -> str:
    if path.is_symlink():
        return os.readlink(path)  # noqa: PTH115
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Scenario:
    """A command that is killed, what is there before it, and what must hold once it ended."""

    name: str
    command: tuple[str, ...]
    prepare: Callable[[Place], None]
    check: Callable[[Place], list[str]] = lambda place: []


@dataclass
class Tally:
    """What came of a scenario's kills."""

    kills: int = 0
    survived: int = 0
    rounds: int = 0
    identical: int = 0
    fetched_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, n_kills: int, faults: list[str]) -> None:
        self.rounds += 1
        self.kills += n_kills
        self.survived += 0 if faults else n_kills
        self.faults += faults


def run_killed(place: Place, command: tuple[str, ...], after_seconds: float) -> tuple[bool, str]:
    """Start a command and kill it after a while; tell whether it was, and what is wrong if not.

    Only the process itself is killed, as by the kernel when memory ends: what it started must end
    by itself.
    """
    process = subprocess.Popen(
        [sys.executable, *command],
        env=place.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, stderr = process.communicate(timeout=after_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        orphans = _end_of_group(process.pid)
        process.communicate()
        return True, f"{orphans} processes lived on" if orphans else ""
    if process.returncode == 0:
        return False, ""
    return False, f"exit status {process.returncode}: {stderr.strip()}"


def _end_of_group(group: int) -> int:
    """Wait for a killed process's children; return how many did not end, and end them."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while _n_living(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    if n_living := _n_living(group):
        os.killpg(group, signal.SIGKILL)
    return n_living


def _n_living(group: int) -> int:
    return sum(1 for state, of in _processes() if of == group and state not in "ZX")


def _processes() -> Iterator[tuple[str, int]]:
    """State and process group of each process (proc(5))."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield state, int(group)


class Soak:
    """Runs scenarios on one hub, in one place."""

    def __init__(self, hub: HubServer, place: Place, seed: int) -> None:
        self.hub = hub
        self.place = place
        self.random = random.Random(seed)

    def run(self, scenario: Scenario, n_kills: int) -> Tally:
        """Kill a scenario's command so often; print a line for each time that it ended."""
        seconds, expected = self._undisturbed(scenario)
        print(f"{scenario.name}: undisturbed {seconds:.1f} s, {len(expected)} files", flush=True)
        tally = Tally()
        while tally.kills < n_kills:
            scenario.prepare(self.place)
            self.hub.requests.clear()
            moments, faults = self._until_it_ends(scenario, seconds, n_kills - tally.kills)
            tally.fetched_bytes += self.hub.fetched_bytes(WEIGHTS)
            faults += self._compare(scenario, expected)
            tally.identical += not faults
            tally.add(len(moments), faults)
            told = " ".join(f"{moment:.2f}" for moment in moments) or "no moment"
            print(f"  killed at {told} s: {'; '.join(faults) or 'survived'}", flush=True)
        return tally

    def _undisturbed(self, scenario: Scenario) -> tuple[float, dict[str, str]]:
        scenario.prepare(self.place)
        started = time.monotonic()
        _, fault = run_killed(self.place, scenario.command, LIMIT_SECONDS)
        seconds = time.monotonic() - started
        if faults := [each for each in (fault, *scenario.check(self.place)) if each]:
            sys.exit(f"{scenario.name} fails undisturbed: {'; '.join(faults)}")
        self.place.run("-m", "codegen_cli", "models", "prune")
        return seconds, self.place.files()

    def _until_it_ends(
        self, scenario: Scenario, seconds: float, most_kills: int
    ) -> tuple[list[float], list[str]]:
        """Return when it was killed, and what went wrong."""
        moments: list[float] = []
        faults: list[str] = []
        while True:
            moment = self.random.uniform(0, seconds)
            wait_seconds = moment if len(moments) < most_kills else LIMIT_SECONDS
            was_killed, fault = run_killed(self.place, scenario.command, wait_seconds)
            faults += [fault] if fault else []
            if not was_killed:
                return moments, faults
            moments.append(moment)

    def _compare(self, scenario: Scenario, expected: dict[str, str]) -> list[str]:
        faults = scenario.check(self.place)
        self.place.run("-m", "codegen_cli", "models", "prune")
        found = self.place.files()
        faults += [f"stray {path}" for path in found.keys() - expected.keys()]
        faults += [f"no {path}" for path in expected.keys() - found.keys()]
        both = found.keys() & expected.keys()
        return faults + [f"{path} differs" for path in both if found[path] != expected[path]]


def hub_accepts(place: Place) -> list[str]:
    """What huggingface_hub itself finds wrong with the cache."""
    verified = place.run("-m", "huggingface_hub.cli.hf", "cache", "verify", NAME)
    offline = place.run("-c", OFFLINE, HF_HUB_OFFLINE="1")
    faults = [f"hf cache verify: {verified.stdout}"] if verified.returncode else []
    return faults + ([f"offline: {offline.stderr[-500:]}"] if offline.returncode else [])


def forget_packed(place: Place) -> None:
    """Leave the checkpoint in the cache, and nothing that was packed of it."""
    shutil.rmtree(place.env["CODEGEN_HOME"], ignore_errors=True)
    place.run("-m", "codegen_cli", "download", NAME)


def scenarios(packed_format: str) -> list[Scenario]:
    download = ("-m", "codegen_cli", "download", NAME, "--format", packed_format)
    quantize = ("-m", "codegen_cli", "quantize", NAME, "--format", packed_format)
    return [
        Scenario("download", download, Place.clear),
        Scenario("download --keep", (*download, "--keep"), Place.clear, hub_accepts),
        Scenario("quantize", quantize, forget_packed),
    ]


def report(tallies: dict[str, Tally], file_bytes: int) -> bool:
    """Print the table; tell whether all was survived."""
    for name, tally in tallies.items():
        share = tally.fetched_bytes / (file_bytes * max(1, tally.rounds))
        fetched = f", bytes fetched over bytes of the file {share:.3f}" if share else ""
        print(
            f"{name:16} survived {tally.survived}/{tally.kills},"
            f" the same files {tally.identical}/{tally.rounds}{fetched}"
        )
    kills = sum(tally.kills for tally in tallies.values())
    survived = sum(tally.survived for tally in tallies.values())
    print(f"survived {survived}/{kills}")
    return not any(tally.faults for tally in tallies.values())


def write_repository(shape: str, directory: Path, seed: int, drip_seconds: float) -> Repository:
    """A repository as the published ones: a pickle, and a file that no download needs.

    One connection takes drip_seconds for the weights.
    """
    config = SHAPES[shape]()
    write_checkpoint(directory, config, random_tensors(config, seed), "torch")
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    shutil.rmtree(directory)
    drip = Fault(WEIGHTS, bytes_per_second=len(files[WEIGHTS]) / drip_seconds)
    repository = Repository({**files, "README.md": b"# Soaked\n"}, faults=[drip])
    repository.storage, repository.url_seconds = "lfs", URL_SECONDS
    return repository


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--drip-seconds", type=float, default=3, help="of the whole download")
    parser.add_argument("--format", choices=("int8", "int4", "f16"), default="int4")
    parser.add_argument("--only", help="one of: download, download --keep, quantize")
    arguments = parser.parse_args()
    chosen = [each for each in scenarios(arguments.format) if arguments.only in (None, each.name)]
    with tempfile.TemporaryDirectory(prefix="codegen-soak-") as made:
        root = Path(made)
        repository = write_repository(
            arguments.shape, root / "checkpoint", arguments.seed, arguments.drip_seconds
        )
        with HubServer({NAME: repository}) as hub:
            places = {"CODEGEN_HOME": str(root / "user/home"), "PYTHONPATH": str(ROOT)}
            env = environment(hub.url, root / "user/hf", HF_HUB_DISABLE_XET="1", **places)
            (root / "user").mkdir()
            soak = Soak(hub, Place(root / "user", env), arguments.seed)
            shares = [len(range(n, arguments.kills, len(chosen))) for n in range(len(chosen))]
            tallies = {
                each.name: soak.run(each, share) for each, share in zip(chosen, shares, strict=True)
            }
    sys.exit(not report(tallies, len(repository.files[WEIGHTS])))


if __name__ == "__main__":
    main()
