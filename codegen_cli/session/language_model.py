"""An engine and a text side -> a model that completes, scores, embeds: the commands' and the API's.

It prints nothing unless asked to. docs/api.md shows all of it at work.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict, TypeVar, Unpack, cast, get_args

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.engine import Cache, Engine, Identity
from codegen_cli.contract.stream import Task
from codegen_cli.decoding.defaults import Until
from codegen_cli.decoding.option_values import choice, whole_number
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.session import one_part
from codegen_cli.session.generation import Generation, Request, completion_task, generate
from codegen_cli.text.prompt import FittedPrompt
from codegen_cli.text.text_side import Prompt, TextSide
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError

if TYPE_CHECKING:  # a completion needs none of these
    from codegen_cli.scoring.embedding import Pool
    from codegen_cli.scoring.likelihood import Score
    from codegen_cli.session.cache_room import OnShortage
    from codegen_cli.session.many_texts import OnProgress
    from codegen_cli.session.service import Service
    from codegen_cli.text.codegen_tokenizer import CodeGenTokenizer


T = TypeVar("T")


class Options(TypedDict, total=False):
    """The keywords of `generate` and `complete`; GenerateOptions explains each."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: str | Iterable[str] | None
    until: Until | None
    deadline: Deadline
    sample: int | None
    draft: int | None
    logprobs: int | None


class LanguageModel:
    """A model ready to run; `load` makes one. A context manager: it is closed at the end.

    name       as the command line would name it
    format     of its matrices: int8, int4 or f16
    config     its dimensions, in config.json's words
    tokenizer  text to ids and back

    May be used by several threads at once: they take turns step by step, and each gets what it
    would get alone. Raises ValueError once it is closed.
    """

    def __init__(self, engine: Engine, text: TextSide, name: str) -> None:
        self.name = name
        self.format: str = engine.format
        self.config: ModelConfig = engine.config
        self._text = text
        self._open_engine: Engine | None = engine

    @property
    def tokenizer(self) -> "CodeGenTokenizer":
        """Text to ids and back."""
        return self._text.tokenizer

    @property
    def identity(self) -> Identity:
        """What its numbers depend on: the weights, and the arithmetic of the engine."""
        return self._engine().identity

    def generate(
        self, prompt: str, *, special_tokens: bool = False, **options: Unpack[Options]
    ) -> Generation:
        """Return an iterator over the completion of a prompt: Pieces as they are made, a Summary.

        Nothing is computed before the first piece is asked for. Of a prompt that is too long for
        the context the tail is read, as in `codegen complete`. `<|endoftext|>` in it is text, or
        with special_tokens the end mark. Raises UserError for an empty prompt and for options of
        another type or out of range.
        """
        _require_text("the prompt", prompt)
        chosen = GenerateOptions(**options)  # type: ignore[arg-type]
        return self.begin(Prompt(prompt, chosen.max_tokens, special_tokens), chosen)[1]

    def begin(self, prompt: Prompt, options: GenerateOptions) -> tuple[FittedPrompt, Generation]:
        """Return what of a prompt is read, and what `generate` does; TimeUp as TextSide.read."""
        engine = self._engine()
        fitted, vocabulary = self._text.read(prompt, options.deadline)
        return fitted, generate(
            engine, vocabulary, fitted.ids, options, prompt.document, fitted.n_dropped_characters
        )

    def generate_many(
        self, requests: Iterable[Request], on_shortage: "OnShortage | None" = None
    ) -> Iterator[tuple[Request, Piece | Summary | UserError]]:
        """Yield what many completions make, each as it would be alone, in whatever order.

        requests     taken as there is room for another
        on_shortage  told, once, that texts have to wait for others because memory is short

        Each ends with its Summary, or with the UserError that `generate` would raise for it.
        Raises TypeError for what is no request.
        """
        from codegen_cli.session.many_completions import run_many

        found = _several("requests", requests)
        return run_many(self._engine(), found, self.task, on_shortage)

    def complete_many(
        self,
        prompts: Iterable[str],
        *,
        samples: int | None = None,
        special_tokens: bool = False,
        **options: Unpack[Options],
    ) -> list[str] | list[list[str]]:
        """Return the completions of prompts, in their order, computed in steps that they share.

        samples  None: a text for each prompt, the one that `complete` returns. Else so many for
                 each, in a list: sample i is what `complete` returns with sample=i

        Other options as for `generate`; without a seed, one is drawn for all. Raises UserError as
        `generate` does for the first prompt that cannot be completed.
        """
        found = list(_several("prompts", prompts))
        for prompt in found:
            _require_text("the prompt", prompt)
        chosen = GenerateOptions(**options)  # type: ignore[arg-type]
        n = 1 if samples is None else whole_number("samples", samples, "at least 1", least=1)
        texts = [[""] * n for _ in found]
        requests = (
            Request((at, i), Prompt(prompt, chosen.max_tokens, special_tokens), each)
            for at, prompt in enumerate(found)
            for i, each in enumerate(_samples(chosen, samples))
        )
        for request, item in self.generate_many(requests):
            if isinstance(item, UserError):
                raise item
            if isinstance(item, Piece):
                at, i = cast(tuple[int, int], request.key)
                texts[at][i] += item.text
        return texts if samples is not None else [each[0] for each in texts]

    def complete(
        self, prompt: str, *, special_tokens: bool = False, **options: Unpack[Options]
    ) -> str:
        """Return the completion of a prompt, without the prompt; options as for `generate`."""
        items = self.generate(prompt, special_tokens=special_tokens, **options)
        return "".join(item.text for item in items if isinstance(item, Piece))

    def task(self, request: Request) -> Task:
        """Return what a service runs to complete a prompt: Pieces, and last a Summary.

        Raises UserError as `generate` does, and TypeError for what is no request.
        """
        _require_request(request)
        engine, (_, prompt, options) = self._engine(), request
        fitted, vocabulary = self._text.read(prompt, options.deadline)
        return completion_task(
            engine, vocabulary, fitted.ids, options, prompt.document, fitted.n_dropped_characters
        )

    def serve(self) -> "Service":
        """Return a service that runs the tasks of many askers together: what `task` returns."""
        from codegen_cli.decoding.scheduler import Scheduler
        from codegen_cli.session.cache_room import cache_room
        from codegen_cli.session.service import Service

        engine = self._engine()
        return Service(Scheduler(engine, cache_room(engine)))

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits that follow each id, float32 [n_tokens, vocab_size].

        ids  1 to n_positions of them, in [0, vocab_size)

        Raises ValueError for ids that do not fit.
        """
        engine = self._engine()
        return one_part.logits_of(engine, ids, _cache_for(np.size(ids), engine))

    def hidden_states(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the state after ln_f at each id, float32 [n_tokens, n_embd]; as `logits` else.

        logits = hidden_states @ lm_head.weight.T + lm_head.bias, but for the rounding of an int8
        or int4 file's kernels.
        """
        engine = self._engine()
        return one_part.states_of(engine, ids, _cache_for(np.size(ids), engine))

    def score(
        self, text: str, *, special_tokens: bool = False, on_progress: "OnProgress | None" = None
    ) -> "Score":
        """Return how likely the model finds a text of any length, token by token.

        scoring.likelihood tells what is read before the first token, how a long text is read, and
        what special_tokens are for.
        """
        scores = self.score_many([text], special_tokens=special_tokens, on_progress=on_progress)
        return next(scores)

    def score_many(
        self,
        texts: Iterable[str],
        *,
        special_tokens: bool = False,
        on_progress: "OnProgress | None" = None,
    ) -> Iterator["Score"]:
        """Yield what `score` returns for each text, in order; short texts share the engine's steps.

        texts        taken as there is room for another
        on_progress  told of the text whose score comes next
        """
        from codegen_cli.scoring.likelihood import LikelihoodStream
        from codegen_cli.session.many_texts import read_texts

        engine = self._engine()

        def task(text: str) -> Task:
            reading = LikelihoodStream(
                text, self.tokenizer, self.config.vocab_size, special_tokens=special_tokens
            )
            n_positions = _cache_size(reading.n_ids, engine)
            return Task(lambda cache: reading.run(cache, engine.n_read), n_positions)

        return read_texts(engine, _required(_several("texts", texts)), task, on_progress)

    def embed(
        self,
        text: str,
        pool: "Pool | None" = "mean",
        *,
        special_tokens: bool = False,
        on_progress: "OnProgress | None" = None,
    ) -> npt.NDArray[np.float32]:
        """Return the mean or the last hidden state of a text of any length, float32 [n_embd].

        special_tokens  as for `score`

        Raises UserError for an empty text.
        """
        vectors = self.embed_many(
            [text], pool, special_tokens=special_tokens, on_progress=on_progress
        )
        return next(vectors)

    def embed_many(
        self,
        texts: Iterable[str],
        pool: "Pool | None" = "mean",
        *,
        special_tokens: bool = False,
        on_progress: "OnProgress | None" = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield what `embed` returns for each text, as `score_many` does."""
        from codegen_cli.scoring.embedding import EmbeddingStream, Pool
        from codegen_cli.session.many_texts import read_texts

        engine = self._engine()
        chosen = cast(Pool, choice("pool", "mean" if pool is None else pool, get_args(Pool)))

        def task(text: str) -> Task:
            reading = EmbeddingStream(
                text, self.tokenizer, self.config.vocab_size, chosen, special_tokens=special_tokens
            )
            n_positions = _cache_size(reading.n_ids, engine)
            return Task(lambda cache: reading.run(cache, engine.n_read), n_positions)

        return read_texts(engine, _required(_several("texts", texts)), task, on_progress)

    def close(self) -> None:
        """End the model's threads and let go of its memory; calling it again does nothing."""
        engine, self._open_engine = self._open_engine, None
        if engine is not None:
            engine.close()
        self._text.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._open_engine is None else self._open_engine.format
        return f"<LanguageModel {self.name}: {state}>"

    def _engine(self) -> Engine:
        if self._open_engine is None:
            raise ValueError("the model is closed")
        return self._open_engine


def _samples(options: GenerateOptions, samples: int | None) -> list[GenerateOptions]:
    """Return the options of each sample."""
    if samples is None:
        return [options]
    return [replace(options, sample=i) for i in range(samples)]


def _cache_for(n_ids: int, engine: Engine) -> Cache:
    """Return a cache of just the size, or of a context."""
    return engine.new_cache(_cache_size(n_ids, engine))


def _cache_size(n_ids: int, engine: Engine) -> int:
    return min(max(n_ids, 1), engine.n_positions)


def _several(what: str, values: Iterable[T]) -> Iterable[T]:
    """Return what is to hold several; raises TypeError for a single one."""
    if isinstance(values, str | bytes | Prompt | Request):
        raise TypeError(f"{what} is {values!r:.40}, need a list, or another iterable")
    return values


def _required(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        _require_text("the text", text)
        yield text


def _require_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r:.40}, need text (str)")


def _require_request(value: object) -> None:
    if not isinstance(value, Request):
        raise TypeError(f"the request is {value!r:.40}, need a codegen_cli.Request")
    if not isinstance(value.prompt, Prompt):
        raise TypeError(f"the prompt is {value.prompt!r:.40}, need a codegen_cli.Prompt")
    if not isinstance(value.options, GenerateOptions):
        raise TypeError(f"the options are {value.options!r:.40}, need codegen_cli.GenerateOptions")
    _require_text("the prompt", value.prompt.text)
