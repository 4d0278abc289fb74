"""Ids and how likely each was -> the tokens of a text, with their places in it."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


class IdLikelihood(NamedTuple):
    """The log-probability of the id that was drawn, and those of the likeliest ids, best first."""

    log_probability: float
    likeliest: tuple[tuple[int, float], ...]


class LikelyToken(NamedTuple):
    """A token that could have stood in a place, the bytes that it stands for, and how likely."""

    id: int
    content: bytes
    log_probability: float


class SampledToken(NamedTuple):
    """A token of a text.

    log_probability  over the whole vocabulary, as token_likelihoods computes it
    likeliest        as many as were asked for, best first; this token may be among them
    offset           where it starts, in characters of the text; a character of several tokens is
                     the place of all of them
    """

    id: int
    content: bytes
    log_probability: float
    likeliest: tuple[LikelyToken, ...]
    offset: int


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
    # fsum: what sum gives differs between versions of Python.
    mean = math.fsum(token.log_probability for token in tokens) / len(tokens)
    return mean if math.isfinite(mean) else None
