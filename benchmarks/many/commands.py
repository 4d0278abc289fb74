"""A packed file -> what whole processes take: memory (c), `codegen batch` (e), `codegen score` (f).

They are seen from outside, with all that starts and ends them.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from lines import Line

sys.path.append(str(Path(__file__).parent.parent / "peers"))
from engine_client import run_whole

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
N_TEXTS, TEXT_WORDS = 200, (4, 8)
GENERATION = ("--max-tokens", "64", "--until", "none", "--temperature", "0.2", "--draft", "0")


class Memory:
    """(c) the largest resident set of a process that continues so many texts / its forecast."""

    def __init__(self, model: Path, threads: int) -> None:
        self._command = [sys.executable, str(HERE / "memory_child.py"), str(model), str(threads)]
        self.lines = [
            Line(f"peak memory of {n} texts / the forecast", 1.1, 1.05, at_most=True)
            for n in (8, 16)
        ]

    def run(self) -> None:
        """Measure one round; the kernel counts what starts a process: this one must stay small."""
        for n_texts, line in zip((8, 16), self.lines, strict=True):
            command = [*self._command, str(n_texts)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            with process.stdout as stdout:
                forecast = stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(f"{' '.join(command)} failed")
            line.add(usage.ru_maxrss * 1024 / int(forecast))


class HumanEval:
    """(e) all prompts of a file by `codegen batch` beside `codegen complete` again and again."""

    def __init__(self, model: Path, threads: int, path: Path, n_prompts: int | None) -> None:
        lines = path.read_text("utf-8").splitlines()[:n_prompts]
        self._prompts = [json.loads(line)["prompt"] for line in lines]
        self._options = [*options(model, threads), *GENERATION]
        self.lines = [
            Line(f"{len(lines)} prompts: codegen batch / a loop: time", 0.35, 0.25, at_most=True)
        ]

    def run(self) -> None:
        """Measure one round."""
        with tempfile.TemporaryDirectory() as directory:
            source, target = Path(directory, "in.jsonl"), Path(directory, "out.jsonl")
            source.write_text("".join(f"{json.dumps({'prompt': p})}\n" for p in self._prompts))
            together = seconds_of("batch", str(source), "-o", str(target), *self._options)
            n_answers = len(target.read_text("utf-8").splitlines())
        assert n_answers == len(self._prompts)
        alone = (seconds_of("complete", *self._options, "--", each) for each in self._prompts)
        self.lines[0].add(together / sum(alone))


class Score:
    """(f) `codegen score` of many short texts, of another checkout / of this one."""

    def __init__(self, model: Path, threads: int, before: Path) -> None:
        self._checkouts = (before.resolve(), PROJECT)
        self._options = options(model, threads)
        self.lines = [Line(f"codegen score of {N_TEXTS} short texts: speed after / before", 1.4, 2)]

    def run(self) -> None:
        """Measure one round."""
        with tempfile.TemporaryDirectory() as directory:
            command = ("score", *self._options, *write_texts(Path(directory)))
            for checkout in self._checkouts:  # compiles its kernels, unless they are there
                seconds_of(*command[:-N_TEXTS], command[-1], checkout=checkout)
            before, after = (seconds_of(*command, checkout=each) for each in self._checkouts)
        self.lines[0].add(before / after)


def write_texts(directory: Path) -> list[str]:
    """Write texts of a few tokens, taken from this project's sources; return their files."""
    source = "\n".join(path.read_text("utf-8") for path in PROJECT.glob("codegen_cli/**/*.py"))
    words = re.findall(r"[a-z]{2,}", source)
    chosen = random.Random(1)
    paths = []
    for number in range(N_TEXTS):
        text = " ".join(chosen.choices(words, k=chosen.randint(*TEXT_WORDS)))
        paths.append(directory / f"{number}.txt")
        paths[-1].write_text(text)
    return [str(path) for path in paths]


def options(model: Path, threads: int) -> list[str]:
    """Return what every command is told."""
    return ["--model", str(model), "--threads", str(threads), "--quiet"]


def seconds_of(*arguments: str, checkout: Path = PROJECT) -> float:
    """Return the seconds of a run of codegen, of the code in a checkout."""
    environment = ["env", f"PYTHONPATH={checkout}"]
    command = [*environment, sys.executable, "-P", "-m", "codegen_cli", *arguments]
    return float(run_whole(command)["seconds"])
