"""Prompt ids and an engine -> pieces of text as they are made, then a summary."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from codegen_cli.contract.engine import Cache, Engine
from codegen_cli.contract.stream import Stream, Task
from codegen_cli.decoding.completion_stream import CompletionStream
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import EndReason, Piece, Summary
from codegen_cli.session.driver import drive
from codegen_cli.text.text_side import Prompt
from codegen_cli.text.vocabulary import Vocabulary, check_ids
from quantize.files.errors import UserError


class Request(NamedTuple):
    """A completion that is asked for among others.

    key  what whoever asks calls it
    """

    key: object
    prompt: Prompt
    options: GenerateOptions


class Generation(Iterator[Piece | Summary]):
    """The pieces of one completion, each computed when it is asked for, then the Summary.

    KeyboardInterrupt passes through; summary("interrupted") then tells how far it had come.
    """

    def __init__(self, engine: Engine, stream: CompletionStream, n_positions: int) -> None:
        self._stream = stream
        self._items = self._run(engine, n_positions)

    def __next__(self) -> Piece | Summary:
        return next(self._items)

    def summary(self, end_reason: EndReason) -> Summary:
        """Return what was done so far, as if it ended now."""
        return self._stream.summary(end_reason)

    def _run(self, engine: Engine, n_positions: int) -> Iterator[Piece | Summary]:
        yield from drive(engine, self._stream.run(engine.new_cache(n_positions)))


def generate(
    engine: Engine,
    vocabulary: Vocabulary,
    prompt_ids: Sequence[int],
    options: GenerateOptions | None = None,
    prompt: str = "",
    n_dropped: int = 0,
) -> Generation:
    """Return an iterator over the completion of prompt_ids: Piece after Piece, then one Summary.

    The joined texts of the pieces are the completion, up to its stop. The draw for each id is keyed
    by seed, sample and the id's position from the start of the prompt.

    prompt, n_dropped  as for CompletionStream

    Raises UserError for a prompt that is empty, fills the model's context or holds ids that the
    model lacks.
    """
    options = options or GenerateOptions()
    _check_prompt(prompt_ids, engine)
    stream = CompletionStream(vocabulary, prompt_ids, options, prompt, n_dropped)
    return Generation(engine, stream, _n_positions(engine, prompt_ids, options))


def completion_task(
    engine: Engine,
    vocabulary: Vocabulary,
    prompt_ids: Sequence[int],
    options: GenerateOptions,
    prompt: str,
    n_dropped: int = 0,
) -> Task:
    """Return what a scheduler runs to make what `generate` does; errors as there.

    It may be run more than once, and makes the same each time.
    """
    _check_prompt(prompt_ids, engine)

    def begin(cache: Cache) -> Stream[Piece | Summary, None]:
        return CompletionStream(vocabulary, prompt_ids, options, prompt, n_dropped).run(cache)

    n_positions = _n_positions(engine, prompt_ids, options)
    return Task(begin, n_positions, prompt_ids, options.deadline)


def _n_positions(engine: Engine, prompt_ids: Sequence[int], options: GenerateOptions) -> int:
    return min(len(prompt_ids) + options.max_tokens, engine.n_positions)


def _check_prompt(ids: Sequence[int], engine: Engine) -> None:
    if not ids:
        raise UserError("the prompt is empty", "Give the beginning of the code to complete.")
    if len(ids) >= engine.n_positions:
        raise UserError(
            f"the prompt has {len(ids)} ids, need fewer than n_positions {engine.n_positions}",
            "Shorten it from the front.",
        )
    check_ids(ids, engine.config.vocab_size, "the prompt")
