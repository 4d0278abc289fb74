"""A part -> the ids that it brings to each step, and its results as they come."""

from typing import NamedTuple

import numpy as np

from codegen_cli.contract.engine import LogProbabilities, Part, Result
from codegen_cli.contract.part_checks import CheckedPart, Tokens
from codegen_cli.engine_cpu.kv_cache import KVCache


class Chunk(NamedTuple):
    """What a reading brings to a step: ids that follow the first n_past of its cache.

    n_wanted  of how many of them something is wanted: of the last
    at        which of all that is wanted is the first of these
    """

    tokens: Tokens
    n_past: int
    n_wanted: int
    at: int

    @property
    def rows(self) -> slice:
        """Which of all that is wanted."""
        return slice(self.at, self.at + self.n_wanted)


class Reading:
    """How far a part has been read; its cache counts the ids in only once all of them are.

    n_columns  of a row of what is wanted, unless that is log-probabilities
    """

    def __init__(self, part: Part, cache: KVCache, sound: CheckedPart, n_columns: int) -> None:
        self.part, self.cache, self.sound = part, cache, sound
        self.outcome: Result | Exception | None = None
        self._n_columns = n_columns
        self._n_done = 0
        self._result: Result | None = None if sound.n_wanted else self._empty()

    def next_chunk(self, n: int) -> Chunk:
        """Return what comes next, of at most n ids."""
        n_tokens, start = len(self.sound.tokens), self._n_done
        end = min(start + n, n_tokens)
        at = start - (n_tokens - self.sound.n_wanted)
        n_wanted = min(max(at + end - start, 0), end - start)
        return Chunk(self.sound.tokens[start:end], self.cache.n_past + start, n_wanted, max(at, 0))

    def make_room(self, chunk: Chunk) -> None:
        """Have room for the keys and values of a chunk; UserError where there is none."""
        self.cache.make_room(chunk.n_past, chunk.n_past + len(chunk.tokens))

    def take(self, chunk: Chunk, result: Result | None) -> None:
        """Keep what was wanted of a chunk, and count it as read.

        result  None: nothing was
        """
        if result is not None and chunk.n_wanted:
            self._keep(chunk, result)
        self._n_done += len(chunk.tokens)
        if self._n_done == len(self.sound.tokens):
            self.cache.n_past += self._n_done
            self.outcome = self._result

    def _keep(self, chunk: Chunk, result: Result) -> None:
        if chunk.n_wanted == self.sound.n_wanted:
            self._result = result
            return
        if self._result is None:
            self._result = self._empty()
        if isinstance(self._result, LogProbabilities):
            assert isinstance(result, LogProbabilities)
            self._result.put(chunk.at, result)
        else:
            assert isinstance(result, np.ndarray)
            self._result[chunk.rows] = result

    def _empty(self) -> Result:
        n = self.sound.n_wanted
        if self.part.wanted == "log_probabilities":
            return LogProbabilities.empty(n)
        return np.empty((n, self._n_columns), np.float32)
