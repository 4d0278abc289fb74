"""One engine on one model, in a process of its own: requests on stdin, timed answers on stdout.

    python engine_NAME.py MODEL FORMAT THREADS              answers requests, one JSON object a line
    python engine_NAME.py MODEL FORMAT THREADS --once P N   a whole run, as a user's: P prompt ids,
                                                            N new ones, each written as it is known

Requests and answers:

    {"do": "describe"}               {"touched_bytes", "file_bytes", "bits_per_weight", "version"};
                                     of codegen "kernels", too, the path that it takes
    {"do": "prefill", "n_tokens"}    forget all, read a prompt    {"seconds", "other_cores"}
    {"do": "read_to", "n_past"}      untimed: forget all if need be, read on up to there    {}
    {"do": "decode", "n_tokens"}     greedy steps, end mark ignored    {"seconds", "other_cores"}
    {"do": "complete", "n_past", "n_tokens"}    of engines that have complete(): as their users get
                                                them, the greedy ids after those of a prompt and
                                                one more    {"seconds", "other_cores"}
    {"do": "decode_many", "n_texts", "n_past", "n_tokens"}    of engines that have scores_of():
                                     greedy steps of so many texts, a token of each in a step, after
                                     n_past of their own; n_tokens: of all together
                                                                   {"seconds", "other_cores"}
    {"do": "scores", "path"}         those after 64 ids, [vocab_size] float32, to a .npy file; with
                                     "n_texts" by scores_of(), of the first of so many    {}

An engine_NAME.py gives main() a function load(path, threads) -> Engine that imports the engine's
library itself, so that a whole run counts it. Nothing here is imported from the project: each peer
runs this in its own virtual environment.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

N_PROMPT_IDS = 50000
"""Prompts are ids below this: text, in every CodeGen's vocabulary."""

Ids = list[int]


class Engine(Protocol):
    """A model that remembers what it has read."""

    def forget(self) -> None:
        """Be as if nothing had been read."""

    def scores(self, ids: list[int]) -> Any:
        """Read ids on; return the logits that follow, a NumPy array [vocab_size]."""

    def describe(self) -> dict[str, object]:
        """The answer to "describe".

        touched_bytes is what weights one decoded id reads: all but the embedding, of which it
        reads a row.
        """


class ManyTextsEngine(Engine, Protocol):
    """One that reads several texts at once, too."""

    def scores_of(self, texts: list[Ids]) -> Sequence[Any]:
        """Read texts on, all of them in one step; return the logits that follow the ids of each.

        They are others than that of `scores`; how many they are changes only after `forget`.
        """


Load = Callable[[str, str, int], Engine]


def prompt(n_tokens: int, number: int = 0) -> Ids:
    """The same pseudo-random ids for every engine; number: of one among texts that differ."""
    chosen = random.Random(1234 + number)
    return [chosen.randrange(N_PROMPT_IDS) for _ in range(n_tokens)]


class Stopwatch:
    """with Stopwatch() as watch: ...   then watch.seconds and watch.other_cores.

    other_cores  what other processes and the hypervisor took meanwhile. A child counts as this
                 process's own once it has been waited for.
    """

    def __enter__(self) -> "Stopwatch":
        self._machine, self._own = machine_cpu_seconds(), own_cpu_seconds()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._start
        machine, own = machine_cpu_seconds() - self._machine, own_cpu_seconds() - self._own
        self.other_cores = max(0.0, (machine - own) / self.seconds)

    def answer(self) -> dict[str, object]:
        return {"seconds": self.seconds, "other_cores": round(self.other_cores, 3)}


def machine_cpu_seconds() -> float:
    """Busy time of all cores, with what the hypervisor took; waiting for disk is not busy."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(field) for field in line.split()[1:9]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Session:
    """An engine and how far it has read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._n_past = 0
        self._next = 0
        self._prefill(prompt(64))
        self._decode(8)  # warm

    def answer(self, request: dict[str, Any]) -> dict[str, object]:
        match request.pop("do"):
            case "describe":
                return self._engine.describe()
            case "prefill":
                return self._timed(lambda: self._prefill(prompt(request["n_tokens"])))
            case "read_to":
                self._read_to(request["n_past"])
            case "decode":
                return self._timed(lambda: self._decode(request["n_tokens"]))
            case "complete":
                return self._complete(request["n_past"], request["n_tokens"])
            case "decode_many":
                return self._decode_many(**request)
            case "scores":
                self._write_scores(**request)
            case other:
                raise ValueError(f"no such request: {other}")
        return {}

    def _timed(self, run: Callable[[], object]) -> dict[str, object]:
        with Stopwatch() as watch:
            run()
        return watch.answer()

    def _prefill(self, ids: list[int]) -> None:
        self._engine.forget()
        self._n_past = 0
        self._read(ids)

    def _read_to(self, n_past: int) -> None:
        if n_past < self._n_past:
            self._prefill(prompt(n_past))
        elif n_past > self._n_past:
            self._read(prompt(n_past)[self._n_past :])

    def _decode(self, n_tokens: int) -> None:
        for _ in range(n_tokens):
            self._read([self._next])

    def _complete(self, n_past: int, n_tokens: int) -> dict[str, object]:
        """Time n_tokens, without the prompt and the first id, which comes with it."""
        ids = self._engine.complete(prompt(n_past), n_tokens + 1)  # type: ignore[attr-defined]
        next(ids)
        return self._timed(lambda: [*ids])

    def _read(self, ids: list[int]) -> None:
        self._next = int(self._engine.scores(ids).argmax())
        self._n_past += len(ids)

    def _decode_many(self, n_texts: int, n_past: int, n_tokens: int) -> dict[str, object]:
        scores = self._read_many(n_texts, n_past)
        engine = cast(ManyTextsEngine, self._engine)

        def decode() -> None:
            nonlocal scores
            for _ in range(n_tokens // n_texts):
                scores = engine.scores_of([[int(row.argmax())] for row in scores])

        return self._timed(decode)

    def _read_many(self, n_texts: int, n_past: int) -> Sequence[Any]:
        self._engine.forget()
        self._n_past = 0
        engine = cast(ManyTextsEngine, self._engine)
        return engine.scores_of([prompt(n_past, number) for number in range(n_texts)])

    def _write_scores(self, path: str, n_texts: int | None = None) -> None:
        import numpy as np

        if n_texts is None:
            self._engine.forget()
            self._n_past = 64
            scores = self._engine.scores(prompt(64))
        else:
            scores = self._read_many(n_texts, 64)[0]
        np.save(path, scores.astype(np.float32))


def run_once(engine: Engine, n_prompt: int, n_new: int) -> None:
    """Write n_new ids, each on a line as soon as it is known; end without tearing down."""
    ids = prompt(n_prompt)
    for _ in range(n_new):
        ids = [int(engine.scores(ids).argmax())]
        print(ids[0], flush=True)
    os._exit(0)


def main(load: Load) -> None:
    """The command line of an engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("format")
    parser.add_argument("threads", type=int)
    parser.add_argument("--once", type=int, nargs=2, metavar=("P", "N"))
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    sys.stdout = answers
    engine = load(arguments.model, arguments.format, arguments.threads)
    if arguments.once:
        run_once(engine, *arguments.once)
    session = Session(engine)
    for line in sys.stdin:
        print(json.dumps(session.answer(json.loads(line))), flush=True)
