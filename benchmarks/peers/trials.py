"""rounds.jsonl -> its trials, by round, and which of them count.

A trial counts if other processes were quiet during it. What a host does beside a virtual machine
shows in no count of processes, so an engine that others are compared with is judged by itself, too:
a round in which it was far slower than it is in the others does not count.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from engine_client import Series

QUIET_CORES = 0.2
"""A trial is disturbed when others took more of the cores than this."""

USUAL_SHARE = 0.75
"""In a round that counts, a peer reaches at least this much of its median in the same file."""

Trial = dict[str, Any]


class Rounds:
    """All trials of a file, by round."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.header: dict[str, Any] = lines[0]
        self.trials: list[Trial] = lines[1:]
        self.threads: int = self.header["threads"]

    @property
    def machine(self) -> str:
        """A directory name: the CPU as it calls itself, and the path our kernels took on it."""
        name = re.sub(r"\((R|TM)\)|@[^,]*|\bCPU\b|\bProcessor\b", "", self.header["cpu"])
        words = f"{name} {self.header['kernels']}".lower()
        return "-".join(re.findall(r"[a-z0-9]+(?:\.[0-9]+)*", words))

    def series(self, engine: str, format: str, threads: int = 0, size: str = "350M") -> Series:
        return Series(engine, format, threads or self.threads, size)

    def has(self, series: Series) -> bool:
        return series.name in self.header["engines"]

    def description(self, series: Series) -> dict[str, Any]:
        found: dict[str, Any] = self.header["engines"][series.name]
        return found

    def of(self, series: Series, metric: str, n: int) -> dict[int, list[Trial]]:
        """Trials of one measure, by round."""
        found: dict[int, list[Trial]] = {}
        for trial in self.trials:
            if _series(trial) == series and (trial["metric"], trial["n"]) == (metric, n):
                found.setdefault(trial["round"], []).append(trial)
        return found

    def read_gb(self, number: int) -> float:
        """What the faster C loop read per second in a round, on all threads: the median."""
        trials = [t for t in self.trials if (t["round"], t["threads"]) == (number, self.threads)]
        loops = ([t[loop] for t in trials if loop in t] for loop in ("read_gb", "staged_gb"))
        return max(median(found) for found in loops if found)

    def read_gb_beside(self, metric: str, n: int) -> dict[int, float]:
        """What the plain C loop read per second beside one measure of all engines, by round."""
        found: dict[int, list[float]] = {}
        for trial in self.trials:
            measure = trial["metric"], trial["n"], trial["threads"]
            if measure == (metric, n, self.threads) and "read_gb" in trial:
                found.setdefault(trial["round"], []).append(trial["read_gb"])
        return {number: median(values) for number, values in found.items()}


def _series(trial: Trial) -> Series:
    return Series(*(trial[field] for field in Series._fields))


def is_quiet(trial: Trial) -> bool:
    return float(trial["other_cores"]) < QUIET_CORES


def quietest(trials: Sequence[Trial]) -> list[Trial]:
    """The undisturbed ones; all if there is none."""
    return [trial for trial in trials if is_quiet(trial)] or list(trials)


def seconds(trial: Trial) -> float:
    return float(trial["seconds"])


def speed(trial: Trial) -> float:
    return float(trial["n_tokens"] / trial["seconds"])


def slow_rounds(rounds: Rounds, series: Series, metric: str, n: int) -> set[int]:
    """Return the rounds in which an engine took far longer for a measure than it usually does.

    What is usual is the median of its undisturbed rounds. Decode waits for memory, so where that
    delivered less than usual to all engines in turn, less is expected; a faster one promises
    nothing, as the cores have their own limit.
    """
    trials = rounds.of(series, metric, n)
    times = {number: median(map(seconds, quietest(found))) for number, found in trials.items()}
    quiet = [number for number, found in trials.items() if any(map(is_quiet, found))] or [*trials]
    most = median(times[number] for number in quiet) / USUAL_SHARE if quiet else 0.0
    memory = rounds.read_gb_beside(metric, n)
    known = [memory[number] for number in quiet if number in memory]

    def expected_share(number: int) -> float:
        return min(1.0, memory[number] / median(known)) if known and number in memory else 1.0

    return {number for number in trials if times[number] > most / expected_share(number)}
