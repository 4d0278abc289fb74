"""Tasks of ids for a scheduler, and what each of them makes alone."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from checkpoints import random_tensors, small_config, write_checkpoint
from golden import sharpened

from codegen_cli.contract.stream import Task
from codegen_cli.decoding.id_stream import IdStream
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.phase_times import PhaseTimes
from codegen_cli.decoding.scheduler import Scheduler
from codegen_cli.session.driver import drive, finish
from codegen_cli.session.engines import open_engine
from quantize.quantize_model import quantize

N_POSITIONS = 400
IDS = np.random.default_rng(5).integers(0, 300, N_POSITIONS).tolist()


def open_small(directory: Path, device: str = "cpu"):
    """An engine of a model with 301 ids; what it writes hangs on all that it has read."""
    config = small_config(vocab_size=301, n_positions=N_POSITIONS)
    write_checkpoint(directory, config, sharpened(random_tensors(config, seed=1)))
    quantize(directory, directory / "packed", "int8")
    return open_engine(directory / "packed", device, n_threads=2)


class Watched:
    """An engine that counts what it is asked."""

    def __init__(self, engine):
        self._engine = engine
        self.steps: list[list[int]] = []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def forward(self, parts):
        self.steps.append([len(part.ids) for part in parts])
        return self._engine.forward(parts)


def new_task(prompt: Sequence[int], n: int = 20, **options) -> Task:
    chosen = GenerateOptions(max_tokens=n, **{"seed": 3, "temperature": 0.7} | options)

    def begin(cache) -> Iterator:
        stream = IdStream(prompt, [], chosen, PhaseTimes())
        while (token_id := (yield from stream.next_id(cache))) is not None:
            yield token_id

    return Task(begin, min(len(prompt) + n, N_POSITIONS), prompt, chosen.deadline)


def ids_alone(engine, task: Task) -> list[int]:
    made: list[int] = []
    finish(drive(engine, task.begin(engine.new_cache(task.n_positions))), made.append)
    return made


def run(scheduler: Scheduler, tasks: Sequence[Task], arrivals: Sequence[int] = ()) -> list:
    """What each task made, and last how it ended; arrivals: before which steps they come."""
    made, texts, n_steps = [[] for _ in tasks], {}, 0
    waiting = sorted(range(len(tasks)), key=lambda i: arrivals[i] if arrivals else 0)
    while waiting or not scheduler.is_idle:
        while waiting and (not arrivals or arrivals[waiting[0]] <= n_steps or scheduler.is_idle):
            index = waiting.pop(0)
            texts[scheduler.add(tasks[index])] = index
        for text, item in scheduler.step():
            made[texts[text]].append(item)
        n_steps += 1
    return made


def random_tasks(choice: random.Random, n: int) -> list[Task]:
    beginnings = [IDS[: choice.randrange(1, 200)] for _ in range(3)]
    return [
        new_task(
            choice.choice(beginnings) + choice.choices(range(300), k=choice.randrange(1, 60)),
            choice.randrange(1, 40),
            sample=choice.randrange(4),
            draft=choice.choice([0, 3, 8, 64]),
            temperature=choice.choice([0, 0.7]),
        )
        for _ in range(n)
    ]
