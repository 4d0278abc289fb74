"""Checkouts of this project -> how fast each packs a checkpoint of a real size, in how much memory.

    python benchmarks/packing.py DIRECTORY CHECKOUT... [--size 6B] [--rounds 2] [--formats int8 int4]

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
from make_checkpoint import TOKENIZER, make_config, random_tensor

from codegen_cli.machine import cpu
from quantize.description.config import parse_config
from quantize.description.tensor_map import TensorSpec, tensor_specs

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from checkpoints import pickled, storage, tensor_call

PACK = "import sys, quantize; quantize.quantize(sys.argv[1], sys.argv[2], sys.argv[3])"
POLL_SECONDS = 0.02


class Run(NamedTuple):
    """One packing; cpu_seconds and peak_bytes: of all its processes, at the same time."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    sha256: str


# --- the checkpoint -------------------------------------------------------------------------------


def make_torch_checkpoint(size: str, directory: Path, seed: int = 0) -> Path:
    """Write config.json, tokenizer.json and pytorch_model.bin, a tensor in memory at a time."""
    config = make_config(size)
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / "pytorch_model.bin"
    if weights.exists():
        return weights
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    part = directory / "pytorch_model.bin.part"
    specs = tensor_specs(parse_config(config, "config.json"))
    random = np.random.default_rng(seed)
    stored = {spec.source: (spec.shape, "F16") for spec in specs}
    n_positions = int(str(config["n_positions"]))
    for layer in range(int(str(config["n_layer"]))):
        shape = (1, 1, n_positions, n_positions)
        stored[f"transformer.h.{layer}.attn.causal_mask"] = (shape, "U8")
    state = {}
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, (name, (shape, dtype)) in enumerate(stored.items()):
            numel = int(np.prod(shape))
            strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
            state[name] = tensor_call(storage(str(key), dtype, numel), shape, tuple(strides))
        archive.writestr("archive/data.pkl", pickled(state))
        for key, values in enumerate(_contents(specs, stored, random)):
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as entry:
                entry.write(values.data.cast("B"))
        archive.writestr("archive/version", b"3\n")
    part.rename(weights)
    return weights


def _contents(
    specs: list[TensorSpec], stored: dict[str, object], random: np.random.Generator
) -> Iterator[np.ndarray]:
    for spec in specs:
        yield random_tensor(spec, random)
    n_positions = 2048
    mask = np.tril(np.ones((1, 1, n_positions, n_positions), np.uint8))
    for _ in range(len(stored) - len(specs)):
        yield mask


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
    started, peak_bytes, ended = time.perf_counter(), 0, 0
    arguments = [str(weights.parent), str(target), format]
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
    """Resident memory of a process and all below it, mapped files included; 0 if it has gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text("ascii", errors="replace")
        children = [
            path.read_text("ascii") for path in Path(f"/proc/{process}/task").glob("*/children")
        ]
    except OSError:
        return 0
    own = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    below = [int(child) for line in children for child in line.split()]
    return sum(1024 * int(kb) for kb in own) + sum(map(resident_bytes, below))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- rounds ---------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> None:
    """Print a line for each run, then for each format the medians of the ratios within rounds."""
    weights = make_torch_checkpoint(arguments.size, arguments.directory)
    source_bytes = weights.stat().st_size
    print(f"{cpu.name()}, {os.cpu_count()} cores; {arguments.size}: {source_bytes / 1e9:.2f} GB")
    for format in arguments.formats:
        ratios: list[float] = []
        cpu_ratios: list[float] = []
        hashes = set()
        for number in range(arguments.rounds):
            runs = []
            for checkout in arguments.checkouts:
                target = arguments.directory / f"packed.{format}"
                run = pack(checkout.resolve(), weights, target, format)
                load = os.getloadavg()[0]
                print(
                    f"{format} round {number + 1} {checkout}: {run.seconds:.1f} s, "
                    f"{source_bytes / 1e9 / run.seconds:.3f} GB/s of source, "
                    f"{run.cpu_seconds:.1f} s of CPU, peak {run.peak_bytes / 2**30:.2f} GiB, load {load:.1f}, {run.sha256[:16]}",
                    flush=True,
                )
                runs.append(run)
                hashes.add(run.sha256)
            ratios.append(runs[0].seconds / runs[-1].seconds)
            cpu_ratios.append(runs[0].cpu_seconds / runs[-1].cpu_seconds)
        same = "same bytes" if len(hashes) == 1 else "DIFFERENT BYTES"
        print(
            f"{format}: the last is {median(ratios):.2f} times as fast as the first, with "
            f"1/{median(cpu_ratios):.2f} of the CPU time; {same}"
        )


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
