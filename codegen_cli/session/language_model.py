"""An engine and a text side -> a model that completes, scores, embeds: the commands' and the API's.

It prints nothing unless asked to. docs/api.md shows all of it at work.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict, TypeVar, Unpack, cast, get_args

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.engine import Cache, Engine
from codegen_cli.decoding.defaults import Until
from codegen_cli.decoding.option_values import choice
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.session import one_part
from codegen_cli.session.driver import drive, finish
from codegen_cli.session.generation import Generation, Request, generate
from codegen_cli.text.prompt import FittedPrompt
from codegen_cli.text.text_side import Prompt, TextSide
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError

if TYPE_CHECKING:  # a completion needs none of these
    from codegen_cli.contract.stream import Stream
    from codegen_cli.scoring.embedding import Pool
    from codegen_cli.scoring.likelihood import Score
    from codegen_cli.scoring.windows import Progress
    from codegen_cli.text.codegen_tokenizer import CodeGenTokenizer

T = TypeVar("T")
OnProgress = Callable[[int, int], None]
"""Called with the tokens done and all tokens."""


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
        return fitted, generate(engine, vocabulary, fitted.ids, options, prompt.document)

    def generate_many(
        self, requests: Iterable[Request]
    ) -> Iterator[tuple[Request, Piece | Summary | UserError]]:
        """Yield what many completions make, each as it would be alone, in whatever order.

        requests  taken as there is room for another

        Each ends with its Summary, or with the UserError that `generate` would raise for it.
        """
        for request in requests:
            try:
                for item in self.begin(request.prompt, request.options)[1]:
                    yield request, item
            except UserError as error:
                yield request, error

    def complete(
        self, prompt: str, *, special_tokens: bool = False, **options: Unpack[Options]
    ) -> str:
        """Return the completion of a prompt, without the prompt; options as for `generate`."""
        items = self.generate(prompt, special_tokens=special_tokens, **options)
        return "".join(item.text for item in items if isinstance(item, Piece))

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits that follow each id, float32 [n_tokens, vocab_size].

        ids  1 to n_positions of them, in [0, vocab_size)

        Raises ValueError for ids that do not fit.
        """
        engine = self._engine()
        return one_part.logits_of(engine, ids, _cache_for(ids, engine))

    def hidden_states(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the state after ln_f at each id, float32 [n_tokens, n_embd]; as `logits` else.

        logits = hidden_states @ lm_head.weight.T + lm_head.bias, but for the rounding of an int8
        or int4 file's kernels.
        """
        engine = self._engine()
        return one_part.states_of(engine, ids, _cache_for(ids, engine))

    def score(
        self, text: str, *, special_tokens: bool = False, on_progress: OnProgress | None = None
    ) -> "Score":
        """Return how likely the model finds a text of any length, token by token.

        scoring.likelihood tells what is read before the first token, how a long text is read, and
        what special_tokens are for.
        """
        _require_text("the text", text)
        from codegen_cli.scoring.likelihood import LikelihoodStream

        engine = self._engine()
        stream = LikelihoodStream(
            text, self.tokenizer, self.config.vocab_size, special_tokens=special_tokens
        )
        return _read_whole(engine, stream.run, on_progress)

    def embed(
        self,
        text: str,
        pool: "Pool | None" = "mean",
        *,
        special_tokens: bool = False,
        on_progress: OnProgress | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the mean or the last hidden state of a text of any length, float32 [n_embd].

        special_tokens  as for `score`

        Raises UserError for an empty text.
        """
        _require_text("the text", text)
        from codegen_cli.scoring.embedding import EmbeddingStream, Pool

        engine = self._engine()
        chosen = cast(Pool, choice("pool", "mean" if pool is None else pool, get_args(Pool)))
        stream = EmbeddingStream(
            text, self.tokenizer, self.config.vocab_size, chosen, special_tokens=special_tokens
        )
        return _read_whole(engine, stream.run, on_progress)

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


def _read_whole(
    engine: Engine,
    run: "Callable[[Cache, int], Stream[Progress, T]]",
    on_progress: OnProgress | None,
) -> T:
    """Run a stream that reads a whole text, with a cache of its own; return its end."""
    stream = drive(engine, run(engine.new_cache(), engine.n_read))
    return finish(stream, lambda progress: on_progress and on_progress(*progress))


def _cache_for(ids: Sequence[int], engine: Engine) -> Cache:
    """Return a cache of just the size; whether these are ids at all is for `forward` to say."""
    return engine.new_cache(min(max(np.size(ids), 1), engine.n_positions))


def _require_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r:.40}, need text (str)")
