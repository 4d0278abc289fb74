"""Prompt ids and anything that has forward -> pieces of text as they are made, then a summary."""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codegen_cli.deadline import Deadline, TimeUp, check_deadline
from codegen_cli.decoding.random_draws import fresh_seed, uniform
from codegen_cli.decoding.sampler import make_sampler
from codegen_cli.decoding.stopping import StopWatch, Until
from codegen_cli.text.text_stream import TextStream
from codegen_cli.text.tokenizer import Tokenizer
from quantize.config import ModelConfig
from quantize.errors import UserError

FinishReason = Literal["stop", "length", "time", "interrupted"]
Cache = TypeVar("Cache")


class Forward(Protocol[Cache]):
    """A model that generate can run.

    new_cache(n_positions) has room for so many ids. forward(ids, cache, n_logits, deadline) appends
    ids to those the cache holds and returns the logits that follow the last n_logits of them, f32
    [n_logits, vocab_size]. It may raise TimeUp once the deadline has passed.
    """

    config: ModelConfig
    n_positions: int

    def new_cache(self, n_positions: int) -> Cache: ...

    def forward(
        self,
        ids: Sequence[int],
        cache: Cache,
        n_logits: int | None = None,
        deadline: Deadline = None,
    ) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to sample and when to end; the defaults are those of CodeGen's authors.

    max_tokens    most ids to sample
    temperature   0 takes the most probable id
    top_p         mass of the nucleus; 1 keeps all ids
    top_k         most ids to choose from; 0 keeps all
    seed          below 2**64; the same seed gives the same text
    stop          texts that end the completion and are no part of it
    until         "function" ends it where one function ends (stopping.FUNCTION_STOPS)
    deadline      time.monotonic() in seconds after which nothing more is computed
    sample        index among several completions of one prompt and seed

    Raises UserError on a value out of range.
    """

    max_tokens: int = 128
    temperature: float = 0.2
    top_p: float = 0.95
    top_k: int = 0
    seed: int = field(default_factory=fresh_seed)
    stop: tuple[str, ...] = ()
    until: Until = "function"
    deadline: Deadline = None
    sample: int = 0

    def __post_init__(self) -> None:
        in_range = 0 <= self.temperature < math.inf  # False for NaN too
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, in_range, "a finite number of at least 0")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("top_k", self.top_k, self.top_k >= 0, "at least 0")
        _check("seed", self.seed, 0 <= self.seed < 2**64, "0 to 2**64 - 1")
        _check("stop", self.stop, "" not in self.stop, "texts that are not empty")
        _check("until", self.until, self.until in ("function", "none"), "'function' or 'none'")


def _check(option: str, found: object, valid: bool, needed: str) -> None:
    if not valid:
        raise UserError(f"{option} is {found!r}, need {needed}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to show now, and the ids sampled since the piece before."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """How a completion ended and what it took.

    completion_tokens counts every id sampled, as OpenAI's usage does: the end-of-text id and those
    of a stop text too. prefill_seconds lead to the first logits; decode_seconds follow, without
    the time that whoever takes the pieces spends on them.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt ids read per second; 0 if the prompt was not read to its end."""
        return _rate(self.prompt_tokens if self.completion_tokens else 0, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """Ids sampled per second of decode, without the first: its logits came from prefill."""
        return _rate(max(0, self.completion_tokens - 1), self.decode_seconds)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0  # a coarse clock may have seen no time pass


class Generation(Iterator[Piece | Summary]):
    """The pieces of one completion, each computed when it is asked for, then the Summary.

    KeyboardInterrupt passes through; summary("interrupted") then tells how far it had come.
    """

    def __init__(
        self,
        model: Forward[Any],
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        options: GenerateOptions,
    ) -> None:
        _check_prompt(prompt_ids, model)
        self._model = model
        self._prompt_ids = prompt_ids
        self._options = options
        self._end_ids = tokenizer.end_ids(model.config.eos_token_id)
        missing_ids = tokenizer.missing_ids(model.config.vocab_size)
        self._sample = make_sampler(options.temperature, options.top_p, options.top_k, missing_ids)
        self._stream = TextStream(tokenizer)
        self._watch = StopWatch(options.stop, options.until)
        self._n_sampled = 0
        self._ids_since_piece: list[int] = []
        self._seconds = {"prefill": 0.0, "decode": 0.0}
        self._items = self._run()

    def __next__(self) -> Piece | Summary:
        return next(self._items)

    def summary(self, finish_reason: FinishReason) -> Summary:
        """Return what was done so far, as if it ended now."""
        return Summary(
            finish_reason=finish_reason,
            prompt_tokens=len(self._prompt_ids),
            completion_tokens=self._n_sampled,
            prefill_seconds=self._seconds["prefill"],
            decode_seconds=self._seconds["decode"],
            seed=self._options.seed,
        )

    def _run(self) -> Iterator[Piece | Summary]:
        try:
            finish_reason = yield from self._decode()
        except TimeUp:
            finish_reason = "time"
        rest = self._watch.feed(self._stream.finish()) + self._watch.finish()
        if rest:
            yield self._piece(rest)
        yield self.summary("stop" if self._watch.stopped else finish_reason)

    def _decode(self) -> Generator[Piece, None, FinishReason]:
        options, ids = self._options, self._prompt_ids
        first = len(ids)
        end = min(first + options.max_tokens, self._model.n_positions)
        cache = self._model.new_cache(end)
        for position in range(first, end):
            with self._timed("prefill" if position == first else "decode"):
                check_deadline(options.deadline)
                logits = self._model.forward(ids, cache, 1, options.deadline)[-1]
            with self._timed("decode"):
                token_id = self._draw(logits, uniform(options.seed, options.sample, position))
                self._n_sampled += 1
                if token_id in self._end_ids:
                    return "stop"
                self._ids_since_piece.append(token_id)
                text = self._watch.feed(self._stream.feed(token_id))
            if text:
                yield self._piece(text)
            if self._watch.stopped:
                return "stop"
            ids = [token_id]
        return "length"

    def _draw(self, logits: npt.NDArray[np.float32], number: float) -> int:
        try:
            return self._sample(logits, number)
        except ValueError as error:  # not finite: a file may hold any numbers
            raise UserError(
                f"the model computes no probabilities: {error}",
                "Its file is damaged: `codegen models verify` tells where.",
            ) from error

    def _piece(self, text: str) -> Piece:
        piece = Piece(text, tuple(self._ids_since_piece))
        self._ids_since_piece.clear()
        return piece

    @contextmanager
    def _timed(self, phase: Literal["prefill", "decode"]) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - started


def generate(
    model: Forward[Any],
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    options: GenerateOptions | None = None,
) -> Generation:
    """Return an iterator over the completion of prompt_ids: Piece after Piece, then one Summary.

    The joined texts of the pieces are the completion, up to its stop. The draw for each id is keyed
    by seed, sample and the id's position from the start of the prompt. Raises UserError for a
    prompt that is empty, fills the model's context or holds ids that the model lacks.
    """
    return Generation(model, tokenizer, prompt_ids, options or GenerateOptions())


def _check_prompt(ids: Sequence[int], model: Forward[Any]) -> None:
    if not ids:
        raise UserError("the prompt is empty", "Give the beginning of the code to complete.")
    if len(ids) >= model.n_positions:
        raise UserError(
            f"the prompt has {len(ids)} ids, need fewer than n_positions {model.n_positions}",
            "Shorten it from the front.",
        )
    check_ids(ids, model.config.vocab_size, "the prompt")


def check_ids(ids: Sequence[int], vocab_size: int, what: str) -> None:
    """Raise UserError, naming `what`, for an id of the tokenizer's that the model lacks."""
    if max(ids, default=0) >= vocab_size:
        raise UserError(
            f"{what} has id {max(ids)}, need ids below vocab_size {vocab_size}",
            "The tokenizer does not belong to this model: use the one of its checkpoint.",
        )
