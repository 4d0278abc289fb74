"""A packed file -> how fast it decodes beside a program that keeps one core busy, and alone.

    python benchmarks/contention.py FILE [--rounds 5]

In each round, each time in another order: one thread, all threads, and all threads in every step,
which is what they would do if TeamSize left nobody out. The ratios are medians of the ratios within
the rounds.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from codegen_cli.contract.engine import Engine
from codegen_cli.engine_cpu.team_size import TeamSize
from codegen_cli.machine.cores import usable_cores
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of

N_PAST, N_TOKENS = 32, 128
_learn = TeamSize.learn


@contextmanager
def busy_program() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def tokens_per_second(model: Engine, *, learns: bool = True) -> float:
    """Of N_TOKENS single ids after N_PAST."""
    TeamSize.learn = _learn if learns else lambda *step: None  # type: ignore[method-assign]
    cache = model.new_cache(N_PAST + N_TOKENS)
    logits_of(model, [0] * N_PAST, cache, 1)
    started = time.perf_counter()
    for _ in range(N_TOKENS):
        logits_of(model, [0], cache, 1)
    return N_TOKENS / (time.perf_counter() - started)


def measure(one: Engine, all_threads: Engine, fixed: Engine, rounds: int) -> None:
    """Print a line a round, then the medians."""
    trials = [
        partial(tokens_per_second, one),
        partial(tokens_per_second, all_threads),
        partial(tokens_per_second, fixed, learns=False),
    ]
    lines = []
    for number in range(rounds):
        line = [0.0] * len(trials)
        for turn in range(len(trials)):  # in a fixed order, one would always pay for the one before
            index = (number + turn) % len(trials)
            line[index] = trials[index]()
        lines.append(line)
        print("  ".join(f"{speed:8.1f}" for speed in line))
    print("  ".join(f"{median(speeds):8.1f}" for speeds in zip(*lines, strict=True)), " medians")
    for name, column in (("all threads", 1), ("all in every step", 2)):
        print(f"{name} / one thread: {median(line[column] / line[0] for line in lines):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="A packed file.")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    n_threads = usable_cores().n_threads
    models = [open_engine(arguments.file, n_threads=n) for n in (1, n_threads, n_threads)]
    one, all_threads, fixed = models
    print(f"tokens/s: one thread, {n_threads} threads, {n_threads} in every step")
    print("alone:")
    measure(one, all_threads, fixed, arguments.rounds)
    print("beside a busy program:")
    with busy_program():
        measure(one, all_threads, fixed, arguments.rounds)
    for model in models:
        model.close()


if __name__ == "__main__":
    main()
