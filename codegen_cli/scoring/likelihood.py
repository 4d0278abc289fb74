"""A text -> how likely the model finds each of its tokens; perplexity and bits per byte."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codegen_cli.decoding.generate import check_ids
from codegen_cli.engine_cpu.buffers import CHUNK
from codegen_cli.engine_cpu.model import Model
from codegen_cli.engine_cpu.threads import run_interruptibly
from codegen_cli.scoring.windows import windows
from codegen_cli.text.tokenizer import Tokenizer

Float64 = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with the tokens done and all tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What the model makes of a text, token by token.

    ids                        [n_tokens] int64
    log_likelihoods            [n_tokens] float64, natural logarithms of p(token | those before)
    likeliest_ids              [n_tokens] int64, what the model expected most
    likeliest_log_likelihoods  [n_tokens] float64
    first_scored               1 if nothing could precede the first token, whose entries are then
                               NaN and -1; else 0
    n_bytes                    of the tokens scored, in UTF-8
    n_windows                  that were read, 1 for a text that fits the context

    The probabilities are over all vocab_size rows of the head, as in transformers.
    """

    ids: npt.NDArray[np.int64]
    log_likelihoods: Float64
    likeliest_ids: npt.NDArray[np.int64]
    likeliest_log_likelihoods: Float64
    first_scored: int
    n_bytes: int
    n_windows: int

    @property
    def n_scored(self) -> int:
        """Number of tokens that have a probability."""
        return len(self.ids) - self.first_scored

    @property
    def log_likelihood(self) -> float:
        """Natural logarithm of the probability of the whole text."""
        return math.fsum(self.log_likelihoods[self.first_scored :])

    @property
    def perplexity(self) -> float:
        """exp(-log_likelihood / n_scored); NaN for a text without tokens."""
        return perplexity(self.log_likelihood, self.n_scored)

    @property
    def bits_per_byte(self) -> float:
        """-log2 of the text's probability, per byte of it; NaN for a text without tokens."""
        return bits_per_byte(self.log_likelihood, self.n_bytes)


def perplexity(log_likelihood: float, n_tokens: int) -> float:
    """Return exp of the mean surprise of n_tokens, in nats; NaN for none of them."""
    if n_tokens == 0:
        return math.nan
    try:
        return math.exp(-log_likelihood / n_tokens)
    except OverflowError:
        return math.inf


def bits_per_byte(log_likelihood: float, n_bytes: int) -> float:
    """Return the surprise in bits, over n_bytes; NaN for none of them."""
    return -log_likelihood / math.log(2) / n_bytes if n_bytes else math.nan


def score_text(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    on_progress: Progress = lambda done, total: None,
    *,
    special_tokens: bool = False,
) -> Score:
    """Return the likelihood of a text, as of a document that begins here.

    The end-of-text token is read before it, as in the models' training, so that the first token has
    a probability too, or what the tokenizer begins every text with; without such a token in the
    vocabulary the first one goes unscored. A text longer than the context is read in windows: every
    token is scored once, after all tokens before it or at least half a context of them.
    `<|endoftext|>` is text in it unless special_tokens are asked for. Raises UserError for ids that
    the model lacks.
    """
    vocab_size = model.config.vocab_size
    encoded = run_interruptibly(lambda: tokenizer.encode(text, special_tokens=special_tokens))
    check_ids(encoded, vocab_size, "the text")
    ids = encoded[len(tokenizer.first_ids) :]
    start = tokenizer.end_of_text
    end_mark = [start] if start is not None and start < vocab_size else []
    read = [*(tokenizer.first_ids or end_mark), *ids][:-1]
    first = len(ids) - len(read)
    found = np.full(len(ids), np.nan), np.full(len(ids), -1, np.int64), np.full(len(ids), np.nan)
    targets = np.array(ids, np.int64)
    never = np.array(tokenizer.missing_ids(vocab_size), np.int64)
    for at, logits in _logits(model, read):
        done = slice(first + at, first + at + len(logits))
        for array, values in zip(found, _log_softmax(logits, targets[done], never), strict=True):
            array[done] = values
        on_progress(done.stop, len(ids))
    return Score(
        ids=targets,
        log_likelihoods=found[0],
        likeliest_ids=found[1],
        likeliest_log_likelihoods=found[2],
        first_scored=first,
        n_bytes=len(text.encode()) - sum(len(tokenizer.token_bytes(i)) for i in ids[:first]),
        n_windows=sum(1 for _ in windows(len(read), model.n_positions)),
    )


def _logits(model: Model, ids: list[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield (index of an id, logits that follow it and some more), over all ids once."""
    cache = model.new_cache()
    for window in windows(len(ids), model.n_positions):
        cache.n_past = 0
        if window.first_new > window.start:
            model.forward(ids[window.start : window.first_new], cache, 0)
        # In parts: 2048 logits of 51200 ids would take 0.4 GB.
        for at in range(window.first_new, window.end, CHUNK):
            yield at, model.forward(ids[at : min(at + CHUNK, window.end)], cache)


def _log_softmax(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], never: npt.NDArray[np.int64]
) -> tuple[Float64, npt.NDArray[np.int64], Float64]:
    """Return ln p of the targets, the likeliest ids but for those of `never`, and their ln p.

    logits  [n, vocab_size]; all else [n]
    """
    rows = np.arange(len(logits))
    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a broken model's infinities become NaN
        values -= values.max(axis=1, keepdims=True)
        values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    own = values[rows, targets]
    values[:, never] = -np.inf
    likeliest = values.argmax(axis=1)
    return own, likeliest, values[rows, likeliest]
