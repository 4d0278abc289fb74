"""A model -> how fast it reads prompts and writes tokens, beside what memory gives meanwhile.

Only the forward pass is timed: no tokenizer, no sampling, no start of a process.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt

from codegen_cli.engine_cpu.kv_cache import KVCache
from codegen_cli.engine_cpu.model import Model
from codegen_cli.measuring.read_limit import MemoryReader
from codegen_cli.measuring.token_bytes import position_bytes, weight_bytes

Progress = Callable[[float, float], None]

PROMPTS = (64, 512, 1536)
DEPTHS = (32, 512, 1024)
N_STEPS = 32
"""Tokens that are written in one trial."""

# What one trial may take at most, so that a large model is measured within minutes: a longer
# prompt is left out, and fewer tokens are written, but at least two.
_PROMPT_SECONDS = 15.0
_DECODE_SECONDS = 2.0
_ALL_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 40.0, 3, 7


@dataclass(slots=True)
class Measure:
    """One thing that was measured, in every round once.

    phase        prefill: a prompt from its first token to the logits after it;
                 decode: one token after another
    n_tokens     of the prompt; or in the cache when the first token is decoded
    token_bytes  weights and cache that a decoded token reads; 0 for a prompt, whose tokens share
                 what is read
    speeds       tokens per second, by round
    limits       bytes per second that the same threads read from memory just before and after
    """

    phase: Literal["prefill", "decode"]
    n_tokens: int
    token_bytes: int = 0
    speeds: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """The median of all rounds."""
        return median(self.speeds)

    @property
    def shares(self) -> list[float]:
        """Bytes read per second, as a part of what memory gave at that time, by round."""
        pairs = zip(self.speeds, self.limits, strict=True)
        return [self.token_bytes * speed / limit for speed, limit in pairs]


def measure_speed(
    model: Model, reader: MemoryReader, n_rounds: int | None, on_progress: Progress
) -> list[Measure]:
    """Measure all in turn, round by round: so a slow moment of the machine falls on all alike.

    n_rounds  None: as many as fit into 40 seconds, at least 3 and at most 7

    Raises KeyboardInterrupt as Model.forward does.
    """
    random = np.random.default_rng(0)
    ids = random.integers(0, model.config.vocab_size, model.n_positions)
    cache = full_cache(model, random)
    measures = [*_prompts(model, ids), *_depths(model)]
    end = time.monotonic() + _ALL_SECONDS
    for number in range(n_rounds or _MOST_ROUNDS):
        if n_rounds is None and number >= _LEAST_ROUNDS and time.monotonic() > end:
            break
        for index, measure in enumerate(measures):
            speed, limit = reader.around(partial(_trial, model, measure, ids, cache))
            measure.speeds.append(speed)
            measure.limits.append(limit)
            done = number * len(measures) + index + 1
            on_progress(done, (n_rounds or _MOST_ROUNDS) * len(measures))
    return measures


def full_cache(model: Model, random: np.random.Generator) -> KVCache:
    """Return a cache of random keys and values: memory that was never written to is no memory."""
    cache = model.new_cache()
    for part in (cache.keys, cache.values):
        for layer in part:
            layer[:] = random.standard_normal(layer.shape, np.float32).astype("<f2").view("<u2")
    return cache


def step_seconds(model: Model, cache: KVCache, n_past: int, n_steps: int) -> list[float]:
    """Return the seconds of each of n_steps tokens after the first n_past positions of a cache.

    One token more comes before them, untimed: it wakes the threads and spreads them over the cores.
    """
    cache.n_past = n_past
    model.forward([0], cache)
    cache.n_past = n_past
    seconds: list[float] = []
    while len(seconds) < n_steps and (len(seconds) < 2 or sum(seconds) < _DECODE_SECONDS):
        started = time.perf_counter()
        model.forward([len(seconds) % model.config.vocab_size], cache)
        seconds.append(time.perf_counter() - started)
    return seconds


def prefill_speed(model: Model, ids: npt.NDArray[np.integer]) -> float:
    """Return tokens per second of a prompt, up to the logits after it."""
    started = time.perf_counter()
    model.forward(ids, model.new_cache(len(ids)), 1)  # type: ignore[arg-type]
    return len(ids) / (time.perf_counter() - started)


def _trial(model: Model, measure: Measure, ids: npt.NDArray[np.integer], cache: KVCache) -> float:
    if measure.phase == "prefill":
        return prefill_speed(model, ids[: measure.n_tokens])
    seconds = step_seconds(model, cache, measure.n_tokens, _n_steps(model))
    return len(seconds) / sum(seconds)


def _prompts(model: Model, ids: npt.NDArray[np.integer]) -> Iterator[Measure]:
    """The lengths that the model's context has room for and that do not take too long."""
    lengths = [n for n in PROMPTS if n <= model.n_positions] or [model.n_positions]
    prefill_speed(model, ids[: lengths[0]])  # warms up
    speed = prefill_speed(model, ids[: lengths[0]])
    for n_tokens in lengths:
        if n_tokens == lengths[0] or n_tokens / speed <= _PROMPT_SECONDS:
            yield Measure("prefill", n_tokens)


def _depths(model: Model) -> Iterator[Measure]:
    """The depths that leave room for a trial, and last the one that fills the context."""
    n_steps = _n_steps(model)
    last = model.n_positions - n_steps
    weights = sum(weight_bytes(model.packed).values())
    for n_past in (*(n for n in DEPTHS if n + n_steps <= last), last):
        positions = n_past + n_steps // 2  # half way through the trial
        yield Measure("decode", n_past, weights + positions * position_bytes(model.config))


def _n_steps(model: Model) -> int:
    return max(1, min(N_STEPS, model.n_positions // 2))
