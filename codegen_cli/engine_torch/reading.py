"""A part -> the ids that it brings to each step, and its results as they come."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from codegen_cli.contract.engine import LogProbabilities, Part, Result
from codegen_cli.contract.part_checks import CheckedPart
from codegen_cli.engine_torch.kv_cache import KVCache
from codegen_cli.engine_torch.log_probabilities import log_probabilities
from quantize.description.config import ModelConfig

_HEAD_ROWS = 64
"""Most rows of logits on a device at a time: 13 MB of them."""


class Chunk(NamedTuple):
    """What a reading brings to a step: ids that follow the first n_past in its slot.

    n_wanted  of how many of them something is wanted: of the last
    at        which of all that is wanted is the first of these
    """

    ids: Sequence[int]
    n_past: int
    n_wanted: int
    at: int


class Reading:
    """How far a part has been read; its cache counts the ids in only once all of them are."""

    def __init__(self, part: Part, cache: KVCache, sound: CheckedPart, config: ModelConfig) -> None:
        self.part, self.cache = part, cache
        self._sound = sound
        self._own_ids: list[int] = sound.tokens.tolist()
        n_columns = config.vocab_size if part.wanted == "logits" else config.n_embd
        self.outcome: Result | Exception | None = None
        self._result: Result
        if part.wanted == "log_probabilities":
            self._result = LogProbabilities.empty(sound.n_wanted)
        else:
            self._result = np.empty((sound.n_wanted, n_columns), np.float32)
        self.begin()

    def begin(self) -> None:
        """Read from where the cache's slot ends, which may be before the part's own ids."""
        n_past = self.cache.n_past
        self._start = min(n_past, self.cache.n_kept)
        self._ids = self.cache.ids[self._start : n_past] + self._own_ids
        self._n_done = 0

    def next_chunk(self, n: int) -> Chunk:
        """Return what comes next, of at most n ids."""
        ids = self._ids[self._n_done : self._n_done + n]
        place = self._n_done - (len(self._ids) - self._sound.n_wanted)
        n_wanted = min(max(place + len(ids), 0), len(ids))
        return Chunk(ids, self._start + self._n_done, n_wanted, max(place, 0))

    def take(self, chunk: Chunk, states: Tensor, logits: Callable[[Tensor], Tensor]) -> None:
        """Make of a chunk's states [n, n_embd] what is wanted of them, and count it as read."""
        wanted = states[len(chunk.ids) - chunk.n_wanted :]
        for start in range(0, chunk.n_wanted, _HEAD_ROWS):
            some = wanted[start : start + _HEAD_ROWS]
            rows = slice(chunk.at + start, chunk.at + start + some.shape[0])
            if isinstance(self._result, LogProbabilities):
                targets = self._sound.targets[rows]
                self._result.put(
                    rows.start, log_probabilities(logits(some), targets, self.part.never)
                )
            else:
                values = logits(some) if self.part.wanted == "logits" else some
                self._result[rows] = values.cpu().numpy()
        self._n_done += len(chunk.ids)
        self.cache.keep(chunk.n_past + len(chunk.ids))
        if self._n_done == len(self._ids):
            self.cache.advance(self._own_ids)
            self.outcome = self._result
