"""Prompt ids and anything that has forward -> pieces of text as they are made, then a summary."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codegen_cli.deadline import Deadline, TimeUp, check_deadline
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.random_draws import uniform
from codegen_cli.decoding.sampler import make_sampler
from codegen_cli.decoding.stopping import StopWatch
from codegen_cli.decoding.summary import FinishReason, Piece, Summary
from codegen_cli.text.text_stream import TextStream
from codegen_cli.text.vocabulary import Vocabulary
from quantize.config import ModelConfig
from quantize.errors import UserError

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


class Generation(Iterator[Piece | Summary]):
    """The pieces of one completion, each computed when it is asked for, then the Summary.

    KeyboardInterrupt passes through; summary("interrupted") then tells how far it had come.
    """

    def __init__(
        self,
        model: Forward[Any],
        vocabulary: Vocabulary,
        prompt_ids: Sequence[int],
        options: GenerateOptions,
    ) -> None:
        _check_prompt(prompt_ids, model)
        self._model = model
        self._prompt_ids = prompt_ids
        self._options = options
        self._end_ids = vocabulary.end_ids
        self._sample = make_sampler(
            options.temperature, options.top_p, options.top_k, vocabulary.missing_ids
        )
        self._stream = TextStream(vocabulary.token_bytes, vocabulary.errors)
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
                token_id = self._draw(logits, position)
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

    def _draw(self, logits: npt.NDArray[np.float32], position: int) -> int:
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
    vocabulary: Vocabulary,
    prompt_ids: Sequence[int],
    options: GenerateOptions | None = None,
) -> Generation:
    """Return an iterator over the completion of prompt_ids: Piece after Piece, then one Summary.

    The joined texts of the pieces are the completion, up to its stop. The draw for each id is keyed
    by seed, sample and the id's position from the start of the prompt. Raises UserError for a
    prompt that is empty, fills the model's context or holds ids that the model lacks.
    """
    return Generation(model, vocabulary, prompt_ids, options or GenerateOptions())


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
