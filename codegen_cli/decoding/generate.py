"""Prompt ids and anything that has forward -> pieces of text as they are made, then a summary."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.decoding.id_stream import Forward, IdStream
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.phase_times import PhaseTimes
from codegen_cli.decoding.stopping import StopWatch
from codegen_cli.decoding.summary import EndReason, Piece, Summary
from codegen_cli.text.text_stream import TextStream
from codegen_cli.text.vocabulary import Vocabulary
from quantize.files.errors import UserError


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
        prompt: str,
    ) -> None:
        _check_prompt(prompt_ids, model)
        self._n_prompt_ids = len(prompt_ids)
        self._seed = options.seed
        self._end_ids = vocabulary.end_ids
        self._times = PhaseTimes()
        self._ids = IdStream(model, prompt_ids, vocabulary.missing_ids, options, self._times)
        self._stream = TextStream(vocabulary.token_bytes, vocabulary.errors)
        self._watch = StopWatch(options.stop, options.until, prompt)
        self._n_sampled = 0
        self._ids_since_piece: list[int] = []
        self._items = self._run()

    def __next__(self) -> Piece | Summary:
        return next(self._items)

    def summary(self, end_reason: EndReason) -> Summary:
        """Return what was done so far, as if it ended now."""
        return Summary(
            end_reason=end_reason,
            seed=self._seed,
            prompt_tokens=self._n_prompt_ids,
            completion_tokens=self._n_sampled,
            drafted_tokens=self._ids.n_drafted,
            accepted_tokens=self._ids.n_accepted,
            prefill_seconds=self._times.seconds["prefill"],
            decode_seconds=self._times.seconds["decode"],
        )

    def _run(self) -> Iterator[Piece | Summary]:
        try:
            end_reason = yield from self._decode()
        except TimeUp:
            end_reason = "time"
        rest = self._watch.feed(self._stream.finish()) + self._watch.finish()
        if rest:
            yield self._piece(rest)
        yield self.summary("stop" if self._watch.stopped else end_reason)

    def _decode(self) -> Generator[Piece, None, EndReason]:
        for token_id in self._ids:
            self._n_sampled += 1
            if token_id in self._end_ids:
                return "stop"
            with self._times.measured("decode"):
                self._ids_since_piece.append(token_id)
                text = self._watch.feed(self._stream.feed(token_id))
            if text:
                yield self._piece(text)
            if self._watch.stopped:
                return "stop"
        return "length"

    def _piece(self, text: str) -> Piece:
        piece = Piece(text, tuple(self._ids_since_piece))
        self._ids_since_piece.clear()
        return piece


def generate(
    model: Forward[Any],
    vocabulary: Vocabulary,
    prompt_ids: Sequence[int],
    options: GenerateOptions | None = None,
    prompt: str = "",
) -> Generation:
    """Return an iterator over the completion of prompt_ids: Piece after Piece, then one Summary.

    The joined texts of the pieces are the completion, up to its stop. The draw for each id is keyed
    by seed, sample and the id's position from the start of the prompt.

    prompt  the text of prompt_ids, and perhaps what was cut before them: StopWatch reads in it what
            the completion begins with

    Raises UserError for a prompt that is empty, fills the model's context or holds ids that the
    model lacks.
    """
    return Generation(model, vocabulary, prompt_ids, options or GenerateOptions(), prompt)


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
