"""A text -> how likely the model finds each of its tokens; perplexity and bits per byte."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Cache, LogProbabilities, Part
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.contract.stream import Stream
from codegen_cli.scoring.windows import Progress, window_parts, windows
from codegen_cli.text.vocabulary import check_ids

if TYPE_CHECKING:
    from codegen_cli.text.tokenizer import Tokenizer

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


class LikelihoodStream:
    """How likely a text is, as of a document that begins here: a stream of Progress, then a Score.

    The end-of-text token is read before it, as in the models' training, so that the first token has
    a probability too, or what the tokenizer begins every text with; without such a token in the
    vocabulary the first one goes unscored. A text longer than the context is read in windows: every
    token is scored once, after all tokens before it or at least half a context of them.
    `<|endoftext|>` is text in it unless special_tokens are asked for. Raises UserError for ids that
    the model lacks.
    """

    def __init__(
        self, text: str, tokenizer: "Tokenizer", vocab_size: int, *, special_tokens: bool = False
    ) -> None:
        encoded = run_interruptibly(lambda: tokenizer.encode(text, special_tokens=special_tokens))
        check_ids(encoded, vocab_size, "the text")
        ids = encoded[len(tokenizer.first_ids) :]
        start = tokenizer.end_of_text
        end_mark = [start] if start is not None and start < vocab_size else []
        self._ids = np.array(ids, np.int64)
        self._read = [*(tokenizer.first_ids or end_mark), *ids][:-1]
        self._first_scored = len(ids) - len(self._read)
        unscored = sum(len(tokenizer.token_bytes(i)) for i in ids[: self._first_scored])
        self._n_bytes = len(text.encode()) - unscored
        self._missing_ids = tokenizer.missing_ids(vocab_size)

    @property
    def n_ids(self) -> int:
        """How many ids are read: a cache for so many, or for a context of fewer, will do."""
        return len(self._read)

    def run(self, cache: Cache, n_read: int) -> Stream[Progress, Score]:
        """Ask and score, once; the cache is empty, and of this text alone.

        n_read  as of an Engine
        """
        n_ids, first = len(self._ids), self._first_scored
        found = LogProbabilities(
            np.full(n_ids, np.nan), np.full(n_ids, -1, np.int64), np.full(n_ids, np.nan)
        )
        targets = self._ids[first:]

        def part_of(start: int, end: int, n_wanted: int) -> Part:
            wanted = targets[end - n_wanted : end]
            ids = self._read[start:end]
            return Part(ids, cache, n_wanted, "log_probabilities", wanted, self._missing_ids)

        for at, part in window_parts(len(self._read), cache, n_read, part_of):
            answer = yield part
            assert answer is not None
            if part.n_wanted:
                found.put(first + at, answer.result)
                yield first + at + part.n_wanted, n_ids
        return Score(
            ids=self._ids,
            log_likelihoods=found.of_targets,
            likeliest_ids=found.likeliest_ids,
            likeliest_log_likelihoods=found.of_likeliest,
            first_scored=first,
            n_bytes=self._n_bytes,
            n_windows=sum(1 for _ in windows(len(self._read), cache.n_positions)),
        )
