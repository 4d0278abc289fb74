"""Checkouts -> how fast each of them packs a checkpoint of a real size, and in how much memory.

    python benchmarks/packing.py DIRECTORY CHECKOUT... [--size 6B] [--rounds 2] [--formats int8]

DIRECTORY gets a checkpoint with random fp16 weights, written as torch writes it, masks included,
unless there is one, and packed files, one at a time. In each round and format every checkout packs
in turn, each in a process of its own that finds nothing of the checkpoint in the page cache.

Memory is read from outside, from /proc (Linux): of that process and all that it starts, with all
pages that they have mapped. The packed files must be equal.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from make_checkpoint import TOKENIZER, make_config, random_tensor

from codegen_cli.machine import cpu
from quantize.description.config import ModelConfig, parse_config
from quantize.description.tensor_map import tensor_specs

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from checkpoints import pickled, storage, tensor_call

PACK = "import sys, quantize; quantize.quantize(sys.argv[1], sys.argv[2], sys.argv[3])"
POLL_SECONDS = 0.02


class Run(NamedTuple):
    """One packing; cpu_seconds and peak_bytes: of all its processes together."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    sha256: str


# --- the checkpoint -------------------------------------------------------------------------------


class Draws:
    """A block of random numbers, used again and again from another place on: drawing is slow."""

    def __init__(self, seed: int) -> None:
        self._block = np.random.default_rng(seed).standard_normal((1 << 24) + 1, np.float32)
        self._start = 0

    def standard_normal(self, shape: tuple[int, ...], dtype: type) -> npt.NDArray[np.float32]:
        """As NumPy's generator has it."""
        self._start += 12345677
        return np.resize(np.roll(self._block, self._start), shape).astype(dtype)


def make_torch_checkpoint(size: str, directory: Path, seed: int = 0) -> Path:
    """Write config.json, tokenizer.json and pytorch_model.bin, a tensor in memory at a time."""
    weights = directory / "pytorch_model.bin"
    if weights.exists():
        return weights
    directory.mkdir(parents=True, exist_ok=True)
    fields = make_config(size)
    (directory / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    (directory / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    config = parse_config(fields, "config.json")
    part = directory / "pytorch_model.bin.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        state = {}
        for key, (name, values) in enumerate(_tensors(config, seed)):
            dtype = "F16" if values.dtype == np.float16 else "U8"
            strides = tuple(step // values.itemsize for step in values.strides)
            source = storage(str(key), dtype, values.size)
            state[name] = tensor_call(source, values.shape, strides)
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as entry:
                entry.write(values.data.cast("B"))
        archive.writestr("archive/data.pkl", pickled(state))
        archive.writestr("archive/version", b"3\n")
    part.rename(weights)
    return weights


def _tensors(config: ModelConfig, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    draws = Draws(seed)
    for spec in tensor_specs(config):
        yield spec.source, random_tensor(spec, draws)
    mask = np.tril(np.ones((1, 1, config.n_positions, config.n_positions), np.uint8))
    for layer in range(config.n_layer):
        yield f"transformer.h.{layer}.attn.causal_mask", mask


def forget(path: Path) -> None:
    """Take a file's pages out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- one run --------------------------------------------------------------------------------------


def pack(checkout: Path, weights: Path, target: Path, format: str) -> Run:
    """Pack with the code of a checkout, in its own process, and look at its memory from outside."""
    target.unlink(missing_ok=True)
    forget(weights)
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    arguments = [str(weights.parent), str(target), format]
    started, peak_bytes, ended = time.perf_counter(), 0, 0
    process = subprocess.Popen([sys.executable, "-c", PACK, *arguments], env=environment, cwd="/")
    while not ended:
        peak_bytes = max(peak_bytes, resident_bytes(process.pid))
        time.sleep(POLL_SECONDS)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{checkout} ended with {process.returncode}")
    sha256 = sha256_of(target)
    target.unlink()
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak_bytes, sha256)


def resident_bytes(process: int) -> int:
    """Resident memory of a process and all below it, mapped pages included; 0 if it has gone.

    What two of them share counts twice.
    """
    directory = Path(f"/proc/{process}")
    try:
        status = (directory / "status").read_text("ascii", errors="replace")
        children = [path.read_text("ascii") for path in directory.glob("task/*/children")]
    except OSError:
        return 0
    own = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    below = [int(child) for line in children for child in line.split()]
    return sum(1024 * int(kb) for kb in own) + sum(map(resident_bytes, below))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- rounds ---------------------------------------------------------------------------------------


def told(run: Run, source_bytes: int) -> str:
    return (
        f"{run.seconds:.1f} s, {source_bytes / 1e9 / run.seconds:.3f} GB/s of source, "
        f"{run.cpu_seconds:.1f} s of CPU, peak {run.peak_bytes / 2**30:.2f} GiB, "
        f"load {os.getloadavg()[0]:.1f}, {run.sha256[:16]}"
    )


def compare(rounds: list[list[Run]]) -> str:
    """The last checkout beside the first: medians of the ratios within rounds."""
    times = median(runs[0].seconds / runs[-1].seconds for runs in rounds)
    cpu_times = median(runs[0].cpu_seconds / runs[-1].cpu_seconds for runs in rounds)
    is_same = len({run.sha256 for runs in rounds for run in runs}) == 1
    same = "same bytes" if is_same else "DIFFERENT BYTES"
    return f"{times:.2f} times as fast, {cpu_times:.2f} times as fast by CPU time, {same}"


def measure(arguments: argparse.Namespace) -> None:
    """Print a line for each run, then one for each format."""
    weights = make_torch_checkpoint(arguments.size, arguments.directory)
    source_bytes = weights.stat().st_size
    print(f"{cpu.name()}, {os.cpu_count()} cores; {arguments.size}: {source_bytes / 1e9:.2f} GB")
    for format in arguments.formats:
        rounds: list[list[Run]] = []
        for number in range(arguments.rounds):
            rounds.append([])
            for checkout in arguments.checkouts:
                target = arguments.directory / f"packed.{format}"
                rounds[-1].append(pack(checkout.resolve(), weights, target, format))
                line = told(rounds[-1][-1], source_bytes)
                print(f"{format} round {number + 1} {checkout}: {line}", flush=True)
        print(f"{format}: the last beside the first: {compare(rounds)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("checkouts", type=Path, nargs="+")
    parser.add_argument("--size", default="6B", help="350M, 2B, 6B or 16B")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--formats", nargs="+", default=["int8", "int4"])
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
