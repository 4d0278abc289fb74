"""Starts engines and asks them: the other end of engine_process.py, and of limits.c."""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple, Self

import places
from engine_process import Stopwatch


class Series(NamedTuple):
    """One engine on one model: what a line of the plot stands for."""

    engine: str
    format: str
    threads: int
    size: str = "350M"

    @property
    def name(self) -> str:
        """The key of its description in the header of rounds.jsonl."""
        return f"{self.size} {self.engine} {self.format}"

    @property
    def command(self) -> list[str]:
        model = places.model(self.size, self.engine, self.format)
        program = [places.python(self.engine), places.script(self.engine)]
        return [*program, str(model), self.format, str(self.threads)]


class EngineProcess:
    """A running engine; a context manager that ends it."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            series.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            **places.surroundings(series.engine),
        )

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """Return the answer to a request of engine_process.py; without one, end with the log."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            sys.exit(f"{' '.join(self.series.command)} failed:\n{self._log.read()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()
        self._log.close()


class ReadLimit:
    """What a C loop reads from memory at the moment it is asked; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(places.LIMITS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},  # no spinning into what is timed next
        )

    def gb_per_second(self, threads: int, stage_bytes: int = 0) -> float:
        """What a plain loop reads, or one in stages of so many bytes that asks ahead: limits.c."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(threads, stage_bytes, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()


def run_whole(command: list[str]) -> dict[str, Any]:
    """Run a command to its end, seen from outside.

    seconds             from before it is started until it is gone
    first_byte_seconds  until it has written a byte to stdout
    peak_rss_mib        the largest resident set; mapped files count. The kernel reports at least
                        that of the process which started it: this one must stay small
    """
    with tempfile.TemporaryFile("w+") as log, Stopwatch() as watch:
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        ) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)
            first_byte_seconds = time.perf_counter() - start
            process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read()[-4000:]}")
    return {
        **watch.answer(),
        "first_byte_seconds": first_byte_seconds,
        "peak_rss_mib": usage.ru_maxrss / 1024,
    }
