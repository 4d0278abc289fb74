"""A model -> how fast it reads prompts and writes tokens, beside what memory gives meanwhile.

Only the forward pass is timed: no tokenizer, no sampling, no start of a process.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Cache, Engine, Part
from codegen_cli.measuring.read_limit import MemoryReader
from codegen_cli.session.one_part import logits_of, run_parts

T = TypeVar("T")
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
    engine: Engine, reader: MemoryReader, n_rounds: int | None, on_progress: Progress
) -> list[Measure]:
    """Measure prompts and depths in turn; n_rounds as for take_turns.

    Raises KeyboardInterrupt as Engine.forward does.
    """
    ids = np.random.default_rng(0).integers(0, engine.config.vocab_size, engine.n_positions)
    full = engine.random_cache()
    measures = [*_prompts(engine, ids), *_depths(engine)]

    def run(measure: Measure) -> None:
        before = _read_speed(engine, reader)
        measure.speeds.append(_trial(engine, measure, ids, full))
        measure.limits.append((before + _read_speed(engine, reader)) / 2)

    take_turns(measures, run, n_rounds, on_progress)
    return measures


def take_turns(
    measures: Sequence[T], run: Callable[[T], None], n_rounds: int | None, on_progress: Progress
) -> None:
    """Run all in turn, round by round: so a slow moment of the machine falls on all alike.

    n_rounds  None: as many as fit into 40 seconds, at least 3 and at most 7
    """
    end = time.monotonic() + _ALL_SECONDS
    n_most = n_rounds or _MOST_ROUNDS
    for number in range(n_most):
        if n_rounds is None and number >= _LEAST_ROUNDS and time.monotonic() > end:
            break
        for index, measure in enumerate(measures):
            run(measure)
            on_progress(number * len(measures) + index + 1, n_most * len(measures))


def step_seconds(engine: Engine, caches: Sequence[Cache], n_past: int, n_steps: int) -> list[float]:
    """Return the seconds of each of n_steps steps after the first n_past positions of all caches.

    A step writes a token of each text. One more comes before them, untimed: it wakes the threads
    and spreads them over the cores.
    """
    _step(engine, caches, n_past, 0)
    seconds: list[float] = []
    while len(seconds) < n_steps and (len(seconds) < 2 or sum(seconds) < _DECODE_SECONDS):
        started = time.perf_counter()
        _step(engine, caches, n_past + len(seconds), len(seconds) % engine.config.vocab_size)
        seconds.append(time.perf_counter() - started)
    return seconds


def _step(engine: Engine, caches: Sequence[Cache], n_past: int, token_id: int) -> None:
    for cache in caches:
        cache.n_past = n_past
    run_parts(engine, [Part([token_id], cache) for cache in caches])


def prefill_speed(engine: Engine, ids: npt.NDArray[np.integer]) -> float:
    """Return tokens per second of a prompt, up to the logits after it."""
    started = time.perf_counter()
    logits_of(engine, ids, engine.new_cache(len(ids)), 1)
    return len(ids) / (time.perf_counter() - started)


def _read_speed(engine: Engine, reader: MemoryReader) -> float:
    """Return the bytes per second that the engine's memory gives just now."""
    return engine.read_speed() or reader.bytes_per_second()


def _trial(engine: Engine, measure: Measure, ids: npt.NDArray[np.integer], full: Cache) -> float:
    n_tokens, n_steps = measure.n_tokens, n_steps_of(engine)
    if measure.phase == "prefill":
        return prefill_speed(engine, ids[:n_tokens])
    # A copy, as what is written into a cache ends it: it forgets what came after.
    cache = engine.copy_cache(full, n_tokens, n_tokens + n_steps)
    seconds = step_seconds(engine, [cache], n_tokens, n_steps)
    return len(seconds) / sum(seconds)


def _prompts(engine: Engine, ids: npt.NDArray[np.integer]) -> Iterator[Measure]:
    """The lengths that the model's context has room for and that do not take too long."""
    lengths = [n for n in PROMPTS if n <= engine.n_positions] or [engine.n_positions]
    prefill_speed(engine, ids[: lengths[0]])  # warms up
    speed = prefill_speed(engine, ids[: lengths[0]])
    for n_tokens in lengths:
        if n_tokens == lengths[0] or n_tokens / speed <= _PROMPT_SECONDS:
            yield Measure("prefill", n_tokens)


def _depths(engine: Engine) -> Iterator[Measure]:
    """The depths that leave room for a trial, and last the one that fills the context."""
    n_steps = n_steps_of(engine)
    last = engine.n_positions - n_steps
    weights = engine.token_bytes
    for n_past in (*(n for n in DEPTHS if n + n_steps <= last), last):
        positions = n_past + n_steps // 2  # half way through the trial
        yield Measure("decode", n_past, weights + positions * engine.position_bytes)


def n_steps_of(engine: Engine) -> int:
    """Return the steps of a trial of writing: no more than half the context."""
    return max(1, min(N_STEPS, engine.n_positions // 2))
