"""Packed files -> decode and prefill speeds, as shares of limits measured in the same rounds.

python benchmarks/speed.py FILE... [--threads 2] [--rounds 5]

Every round measures each file and, beside it, what plain reading of memory delivers. Prints each
round, then medians:

    decode      tokens/s, one id at a time after 32 ids
    after 1024  the same after 1024 ids
    prefill     tokens/s of a 512-id prompt
    p/s         time of that prefill / time of 512 single steps
    read share  bytes of weights read per decoded token * decode / read bandwidth
"""

import argparse
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numba import njit

from codegen_cli.engine.cpu import usable_cores
from codegen_cli.engine.model import Model, load_model

STEPS = 64
PROMPT = 512
READ_BYTES = 1 << 30
COLUMNS = ("decode", "after 1024", "prefill", "p/s", "read GB/s", "read share")


@njit(nogil=True)
def xor_all(words):
    """Read every word once."""
    total = np.uint64(0)
    for word in words:
        total ^= word
    return total


def read_bandwidth(words, n_threads):
    """Bytes per second that all threads together read from memory."""
    parts = np.array_split(words, n_threads)
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(xor_all, (part[:8] for part in parts)))
        started = time.perf_counter()
        list(pool.map(xor_all, parts))
        return words.nbytes / (time.perf_counter() - started)


def decode_seconds(model: Model, n_past: int, ids) -> float:
    """Median seconds of a single step after n_past ids (whose cache content does not matter)."""
    cache = model.new_cache()
    cache.n_past = n_past
    seconds = []
    for token_id in ids[:STEPS]:
        started = time.perf_counter()
        model.forward([int(token_id)], cache)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def prefill_seconds(model: Model, ids) -> float:
    """Seconds until the logits that follow the prompt."""
    started = time.perf_counter()
    model.forward(ids[:PROMPT], model.new_cache(), 1)
    return time.perf_counter() - started


def touched_bytes(model: Model) -> int:
    """Bytes of weights that one token reads: all but the embedding, of which it reads a row."""
    tensors = model.packed.tensors
    tied = model.config.tie_word_embeddings
    return sum(len(t.payload) for name, t in tensors.items() if tied or name != "wte.weight")


def measure(model: Model, words, n_threads: int) -> tuple[float, ...]:
    """One round of one file, in the order of COLUMNS."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, PROMPT)
    bandwidth = read_bandwidth(words, n_threads)
    step = decode_seconds(model, 32, ids)
    prefill = prefill_seconds(model, ids)
    return (
        1 / step,
        1 / decode_seconds(model, 1024, ids),
        PROMPT / prefill,
        prefill / (PROMPT * step),
        bandwidth / 1e9,
        touched_bytes(model) / step / bandwidth,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    words = np.ones(READ_BYTES // 8, np.uint64)
    models = {path.name: load_model(path, arguments.threads) for path in arguments.files}
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads")
    print(f"{'file':28}" + "".join(f"{column:>12}" for column in COLUMNS))
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name, model in models.items():
            rounds[name].append(measure(model, words, arguments.threads))
            print_row(name, rounds[name][-1])
    print("medians")
    for name, values in rounds.items():
        print_row(name, tuple(statistics.median(column) for column in zip(*values, strict=True)))


def print_row(name: str, values: tuple[float, ...]) -> None:
    """Print one line of the table."""
    print(f"{name:28}" + "".join(f"{value:12.2f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
