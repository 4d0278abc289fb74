"""Prompt ids and anything that has forward -> the ids of the completion, a step at a time."""

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.deadline import Deadline, check_deadline
from codegen_cli.decoding.drafter import Drafter
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.phase_times import PhaseTimes
from codegen_cli.decoding.random_draws import uniform
from codegen_cli.decoding.sampler import make_sampler
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError

Logits = npt.NDArray[np.float32]


class Cache(Protocol):
    """What a model keeps of the n_past ids it was fed; a lower n_past forgets the last of them."""

    n_past: int


SomeCache = TypeVar("SomeCache", bound=Cache)


class Forward(Protocol[SomeCache]):
    """A model that can be completed with.

    new_cache(n_positions) has room for so many ids. forward(ids, cache, n_logits, deadline) appends
    ids to those the cache holds and returns the logits that follow the last n_logits of them, f32
    [n_logits, vocab_size]; they must not depend on how ids are spread over calls. It may raise
    TimeUp once the deadline has passed.
    """

    config: ModelConfig
    n_positions: int

    def new_cache(self, n_positions: int) -> SomeCache: ...

    def forward(
        self,
        ids: Sequence[int],
        cache: SomeCache,
        n_logits: int | None = None,
        deadline: Deadline = None,
    ) -> Logits: ...


class IdStream(Iterator[int]):
    """The ids of one completion, at most max_tokens, each drawn when it is asked for.

    A step feeds the last id and a draft of those that may follow it. An id is drawn from logits
    only once all ids before it have been drawn as they were fed: a draft saves steps, and changes
    neither the logits nor the draws.

    Raises TimeUp, and UserError where the model computes no probabilities.
    """

    def __init__(
        self,
        model: Forward[Any],
        prompt_ids: Sequence[int],
        missing_ids: Sequence[int],
        options: GenerateOptions,
        times: PhaseTimes,
    ) -> None:
        self.n_drafted = 0  # ids that were fed as guesses
        self.n_accepted = 0  # those of them that were drawn
        self._model = model
        self._options = options
        self._times = times
        self._sample = make_sampler(options.temperature, options.top_p, options.top_k, missing_ids)
        self._ids = self._run(prompt_ids)

    def __next__(self) -> int:
        return next(self._ids)

    def _run(self, prompt_ids: Sequence[int]) -> Iterator[int]:
        position = len(prompt_ids)
        end = min(position + self._options.max_tokens, self._model.n_positions)
        cache = self._model.new_cache(end)
        with self._times.measured("prefill"):
            logits = self._forward(prompt_ids, cache, 1)
        drawn = yield from self._draw(logits, [], position)
        position += 1
        drafter = Drafter(prompt_ids, self._options.draft)
        while position < end:
            with self._times.measured("decode"):
                drafter.extend(drawn)
                draft = drafter.draft(end - position - 1)
                cache.n_past = position - 1  # without the guesses that were wrong
                started = time.perf_counter()
                logits = self._forward([drawn[-1], *draft], cache, 1 + len(draft))
                seconds = time.perf_counter() - started
            self.n_drafted += len(draft)
            drawn = yield from self._draw(logits, draft, position)
            position += len(drawn)
            drafter.checked(len(draft), len(drawn) - 1, seconds)

    def _forward(self, ids: Sequence[int], cache: Cache, n_logits: int) -> Logits:
        check_deadline(self._options.deadline)
        return self._model.forward(ids, cache, n_logits, self._options.deadline)

    def _draw(
        self, logits: Logits, draft: list[int], position: int
    ) -> Generator[int, None, list[int]]:
        """Yield the id of each row of logits, up to the first that the draft did not foresee."""
        drawn: list[int] = []
        for row, guess in zip(logits, [*draft, None], strict=True):
            with self._times.measured("decode"):
                drawn.append(self._draw_one(row, position + len(drawn)))
            self.n_accepted += drawn[-1] == guess
            yield drawn[-1]
            if drawn[-1] != guess:
                break
        return drawn

    def _draw_one(self, logits: Logits, position: int) -> int:
        options = self._options
        is_drawn = options.temperature > 0
        number = uniform(options.seed, options.sample, position) if is_drawn else 0.0
        try:
            return self._sample(logits, number)
        except ValueError as error:  # not finite: a file may hold any numbers
            raise UserError(
                f"the model computes no probabilities: {error}",
                "Its file is damaged: `codegen models verify` tells where.",
            ) from error
