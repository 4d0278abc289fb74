"""A text -> how likely the model finds each of its tokens; perplexity and bits per byte."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.driver import Stream, drive
from codegen_cli.contract.engine import Cache, Engine, LogProbabilities, Part
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.scoring.windows import Progress, read_windows, windows
from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.vocabulary import check_ids

Float64 = npt.NDArray[np.float64]


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
    engine: Engine,
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
    vocab_size = engine.config.vocab_size
    encoded = run_interruptibly(lambda: tokenizer.encode(text, special_tokens=special_tokens))
    check_ids(encoded, vocab_size, "the text")
    ids = encoded[len(tokenizer.first_ids) :]
    start = tokenizer.end_of_text
    end_mark = [start] if start is not None and start < vocab_size else []
    read = [*(tokenizer.first_ids or end_mark), *ids][:-1]
    first = len(ids) - len(read)
    targets = np.array(ids, np.int64)
    found = LogProbabilities(
        np.full(len(ids), np.nan), np.full(len(ids), -1, np.int64), np.full(len(ids), np.nan)
    )
    stream = _likelihoods(
        read, targets[first:], tokenizer.missing_ids(vocab_size), engine.new_cache(), engine.n_read
    )
    for at, part in drive(engine, stream):
        found.put(first + at, part)
        on_progress(first + at + len(part.of_targets), len(ids))
    return Score(
        ids=targets,
        log_likelihoods=found.of_targets,
        likeliest_ids=found.likeliest_ids,
        likeliest_log_likelihoods=found.of_likeliest,
        first_scored=first,
        n_bytes=len(text.encode()) - sum(len(tokenizer.token_bytes(i)) for i in ids[:first]),
        n_windows=sum(1 for _ in windows(len(read), engine.n_positions)),
    )


def _likelihoods(
    ids: list[int], targets: npt.NDArray[np.int64], never: Sequence[int], cache: Cache, n_read: int
) -> Stream[tuple[int, Any], None]:
    """Make (index of an id, log-probabilities of what follows it and some more), over all ids."""

    def part_of(start: int, end: int, n_wanted: int) -> Part:
        wanted = targets[end - n_wanted : end]
        return Part(ids[start:end], cache, n_wanted, "log_probabilities", wanted, never)

    return read_windows(len(ids), cache, n_read, part_of)
