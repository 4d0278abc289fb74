"""Logits and the ids drawn from them -> how likely each token of a text was, and what else was.

Natural logarithms of probabilities over all vocab_size rows of the head, before temperature and
filters, in float64: what transformers' log_softmax gives for the same logits. Rows without a token
count in the sum, as in `score`, and are never among the likeliest.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class IdLikelihood(NamedTuple):
    """The log-probability of the id that was drawn, and those of the likeliest ids, best first."""

    log_probability: float
    likeliest: tuple[tuple[int, float], ...]


LikelihoodOf = Callable[[Logits, int], IdLikelihood | None]


class LikelyToken(NamedTuple):
    """A token that could have stood in a place, the bytes that it stands for, and how likely."""

    id: int
    content: bytes
    log_probability: float


class SampledToken(NamedTuple):
    """A token of a text.

    log_probability  as this module's first lines have it
    likeliest        as many as were asked for, best first; this token may be among them
    offset           where it starts, in characters of the text; a character of several tokens is
                     the place of all of them
    """

    id: int
    content: bytes
    log_probability: float
    likeliest: tuple[LikelyToken, ...]
    offset: int


def make_likelihoods(n_likeliest: int | None, missing_ids: Sequence[int]) -> LikelihoodOf:
    """Return a function (logits f32 [vocab_size], id drawn) -> its likelihood.

    n_likeliest  None: nothing is computed
    missing_ids  never among the likeliest
    """
    if n_likeliest is None:
        return lambda logits, drawn: None
    missing = np.array(missing_ids, np.int64)

    def likelihood(logits: Logits, drawn: int) -> IdLikelihood:
        values = logits.astype(np.float64)
        with np.errstate(invalid="ignore"):  # a damaged file may have infinite logits without token
            values -= values.max()
        values -= math.log(np.exp(values).sum())
        log_probability = float(values[drawn])
        values[missing] = -np.inf
        ids = _largest(values, n_likeliest)
        return IdLikelihood(log_probability, tuple((i, float(values[i])) for i in ids))

    return likelihood


def _largest(values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Return the indices of the `count` largest, best first, of equal ones the lowest first."""
    count = min(count, int(np.isfinite(values).sum()))
    if count == 0:
        return []
    found = np.flatnonzero(values >= np.partition(values, -count)[-count])
    best: list[int] = found[np.argsort(-values[found], kind="stable")][:count].tolist()
    return best


class TokenQueue:
    """Tokens in their order, each given out once the text that is shown reaches beyond its start.

    token_bytes  an id -> the bytes that it adds to a text

    What a stop text cut off is not shown, so the tokens behind it are never given out; a token
    within which it starts is, whole.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._tokens: deque[SampledToken] = deque()

    def add(self, token_id: int, likelihood: IdLikelihood | None, offset: int) -> None:
        """Add a token that starts at an offset; None: nobody asked how likely it was."""
        if likelihood is None:
            return
        likeliest = [LikelyToken(i, self._token_bytes(i), p) for i, p in likelihood.likeliest]
        content = self._token_bytes(token_id)
        self._tokens.append(
            SampledToken(token_id, content, likelihood.log_probability, tuple(likeliest), offset)
        )

    def begun_before(self, n_characters: int) -> tuple[SampledToken, ...]:
        """Return the tokens not given yet that start within so many characters."""
        begun = []
        while self._tokens and self._tokens[0].offset < n_characters:
            begun.append(self._tokens.popleft())
        return tuple(begun)


def mean_log_probability(tokens: Sequence[SampledToken]) -> float | None:
    """Return the mean over a text's tokens; None without, and where one is no number."""
    if not tokens:
        return None
    mean = sum(token.log_probability for token in tokens) / len(tokens)
    return mean if math.isfinite(mean) else None
