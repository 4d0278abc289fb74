"""The Python API: a name or a path -> a model that completes, scores and gives hidden states.

It prints nothing unless asked to. docs/api.md shows all of it at work.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack, cast, get_args

import numpy as np
import numpy.typing as npt

from codegen_cli.contract import one_part
from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.engine import Cache, Engine
from codegen_cli.decoding.generate import Generation, generate
from codegen_cli.decoding.option_values import choice, whole_number
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.stopping import Until
from codegen_cli.decoding.summary import Piece
from codegen_cli.models.model_choice import choose_model
from codegen_cli.scoring.embedding import Pool, embed_text
from codegen_cli.scoring.likelihood import Score, score_text
from codegen_cli.scoring.windows import Progress
from codegen_cli.session.model_loading import load_chosen
from codegen_cli.terminal import console
from codegen_cli.text.prompt import fit_prompt, last_document
from codegen_cli.text.tokenizer import Tokenizer
from quantize.description.config import ModelConfig
from quantize.packed.packed_file import read_packed_file

MOST_THREADS = 1024
"""More would start none the faster, and a mistaken number could use up the system's threads."""


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


class LanguageModel:
    """A model ready to run; `load` makes one. A context manager: it is closed at the end.

    name       as the command line would name it
    format     of its matrices: int8, int4 or f16
    config     its dimensions, in config.json's words
    tokenizer  text to ids and back

    May be used by several threads at once: they take turns step by step, and each gets what it
    would get alone. Raises ValueError once it is closed.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, name: str) -> None:
        self.name = name
        self.format: str = engine.format
        self.config: ModelConfig = engine.config
        self.tokenizer = tokenizer
        self._open_engine: Engine | None = engine

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
        engine = self._engine()
        fitted = fit_prompt(
            prompt,
            self.tokenizer,
            n_positions=engine.n_positions,
            max_tokens=chosen.max_tokens,
            special_tokens=special_tokens,
        )
        return generate(
            engine,
            self.tokenizer.vocabulary(engine.config),
            fitted.ids,
            chosen,
            last_document(prompt, special_tokens=special_tokens),
        )

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
        self, text: str, *, special_tokens: bool = False, on_progress: Progress | None = None
    ) -> Score:
        """Return how likely the model finds a text of any length, token by token.

        likelihood.score_text tells what is read before the first token, how a long text is read,
        and what special_tokens are for.
        """
        _require_text("the text", text)
        return score_text(
            self._engine(),
            self.tokenizer,
            text,
            on_progress or _ignore,
            special_tokens=special_tokens,
        )

    def embed(
        self,
        text: str,
        pool: Pool | None = "mean",
        *,
        special_tokens: bool = False,
        on_progress: Progress | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the mean or the last hidden state of a text of any length, float32 [n_embd].

        special_tokens  as for `score`

        Raises UserError for an empty text.
        """
        _require_text("the text", text)
        chosen = cast(Pool, choice("pool", "mean" if pool is None else pool, get_args(Pool)))
        return embed_text(
            self._engine(),
            self.tokenizer,
            text,
            chosen,
            on_progress or _ignore,
            special_tokens=special_tokens,
        )

    def close(self) -> None:
        """End the model's threads and let go of its memory; calling it again does nothing."""
        engine, self._open_engine = self._open_engine, None
        if engine is not None:
            engine.close()

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


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    *,
    notes: bool = False,
) -> LanguageModel:
    """Return a model ready to run.

    name_or_path  as after `codegen complete -m`: a name such as 350M-mono or 2B-multi:int4, a
                  packed file, or a checkpoint directory, which is packed first; a Path is never
                  a name; None: the default model
    threads       None: one per core that the process may use
    notes         show on stderr what `codegen complete` would: packing, compiling

    The first load on a machine compiles the kernels, about 15 seconds. Raises UserError: an
    unknown name, a model that is not on this machine, a file that is no valid model.
    """
    if threads is not None:
        needed = f"1 to {MOST_THREADS}"
        threads = whole_number("threads", threads, needed, least=1, most=MOST_THREADS)
    if not isinstance(name_or_path, str | os.PathLike | None):
        raise TypeError(f"name_or_path is {name_or_path!r}, need text or a path")
    if not notes:
        with console.silence():
            return load(name_or_path, threads, notes=True)
    if isinstance(name_or_path, os.PathLike):
        name_or_path = str(Path(name_or_path).absolute())
    chosen = choose_model(name_or_path)
    packed = read_packed_file(chosen.path)
    tokenizer = Tokenizer.from_packed(packed)
    return LanguageModel(load_chosen(packed, chosen.name, threads), tokenizer, chosen.name)


def _cache_for(ids: Sequence[int], engine: Engine) -> Cache:
    """Return a cache of just the size; whether these are ids at all is for `forward` to say."""
    return engine.new_cache(min(max(np.size(ids), 1), engine.n_positions))


def _require_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r:.40}, need text (str)")


def _ignore(done: int, total: int) -> None:
    pass
