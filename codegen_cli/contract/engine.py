"""All that a caller may ask of an engine: ids and caches in, logits, states or likelihoods out.

An engine computes the forward pass of one packed file somewhere. What reads and writes texts knows
this contract and no engine.

Only the Numba engine promises that results are the same bits however ids are spread over parts and
calls, on any number of threads and on every kernel path. Of any other engine a caller may expect
results that differ as rounding does.
"""

from collections.abc import Collection, Sequence
from threading import Event
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.deadline import Deadline
from quantize.description.config import ModelConfig

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Wanted = Literal["logits", "hidden_states", "log_probabilities"]


class Cancelled(Exception):
    """Somebody set a part's cancel flag before it was done."""


class Identity(NamedTuple):
    """What keys and values depend on: caches of equal identity are interchangeable.

    model     SHA-256 of the packed file's header, which states the hash of every tensor
    engine    which code computes
    dtype     of keys and values
    numerics  the version of the engine's arithmetic: another one gives other bits
    """

    model: str
    engine: str
    dtype: str
    numerics: int


class Cache(Protocol):
    """The keys and values of a text's first n_past ids, with room for n_positions.

    A caller may lower n_past: that forgets the last ids.
    """

    n_past: int

    @property
    def n_positions(self) -> int: ...

    @property
    def identity(self) -> Identity: ...


class Part(NamedTuple):
    """What one text asks of a step: ids to append to its cache, and what is wanted of the last.

    ids       [n_tokens] in [0, vocab_size)
    n_wanted  of how many of the last ids something is wanted; None: of all
    wanted    logits             f32 [n_wanted, vocab_size]: they follow each id
              hidden_states      f32 [n_wanted, n_embd]: what ln_f gives for each id
              log_probabilities  LogProbabilities of what follows each id
    targets   [n_wanted] the ids whose log-probabilities are wanted
    never     ids that cannot be the likeliest: no token has them
    deadline  after which nothing more is computed for this part
    cancel    ends the part early once it is set
    """

    ids: Sequence[int] | npt.NDArray[np.integer]
    cache: Cache
    n_wanted: int | None = None
    wanted: Wanted = "logits"
    targets: Sequence[int] | npt.NDArray[np.integer] = ()
    never: Collection[int] = ()
    deadline: Deadline = None
    cancel: Event | None = None


class LogProbabilities(NamedTuple):
    """Natural logarithms of probabilities over all vocab_size rows of the head.

    of_targets    [n_wanted] f64
    likeliest_ids [n_wanted] i64
    of_likeliest  [n_wanted] f64
    """

    of_targets: Float64
    likeliest_ids: npt.NDArray[np.int64]
    of_likeliest: Float64

    @classmethod
    def empty(cls, n_wanted: int) -> "LogProbabilities":
        """Return room for those of so many rows."""
        return cls(np.empty(n_wanted), np.empty(n_wanted, np.int64), np.empty(n_wanted))

    def rows(self, rows: slice) -> "LogProbabilities":
        """Return those of some rows."""
        return LogProbabilities(
            self.of_targets[rows], self.likeliest_ids[rows], self.of_likeliest[rows]
        )

    def put(self, at: int, other: "LogProbabilities") -> None:
        """Write those of another from a row on."""
        rows = slice(at, at + len(other.of_targets))
        self.of_targets[rows] = other.of_targets
        self.likeliest_ids[rows] = other.likeliest_ids
        self.of_likeliest[rows] = other.of_likeliest


Result = Float32 | LogProbabilities


class Engine(Protocol):
    """The forward pass of one packed file.

    format           of its matrices: int8, int4 or f16
    bits_per_weight  of all matrices, scales included
    token_bytes      of weights that one more token reads
    position_bytes   of keys and values that a token reads for each position before it
    device           where it computes, for people
    n_read           ids that a part should have where a long text is read: more gain nothing
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def n_positions(self) -> int: ...

    @property
    def format(self) -> str: ...

    @property
    def bits_per_weight(self) -> float: ...

    @property
    def token_bytes(self) -> int: ...

    @property
    def position_bytes(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def n_read(self) -> int: ...

    @property
    def identity(self) -> Identity: ...

    def new_cache(self, n_positions: int | None = None) -> Cache:
        """Return an empty cache for so many ids (None: all that the model can see).

        ValueError for more than the model can see, UserError where memory is short.
        """
        ...

    def cache_bytes(self, n_positions: int | None = None) -> int:
        """Return the bytes of such a cache."""
        ...

    def copy_cache(self, cache: Cache, n_past: int, n_positions: int | None = None) -> Cache:
        """Return a new cache that begins with the first n_past ids of another of this identity.

        ValueError where they do not fit, or the cache is another model's.
        """
        ...

    def read_speed(self) -> float | None:
        """Return the bytes per second that the device's memory gives to a plain copy, measured now.

        None where that is the memory of the host, which measuring/read_limit.py measures.
        """
        ...

    def random_cache(self, n_positions: int | None = None) -> Cache:
        """Return a full cache of random keys and values, for measuring; n_positions: new_cache."""
        ...

    def forward(self, parts: Sequence[Part]) -> list[Result | Exception]:
        """Append each part's ids to its cache; return what it wanted, or why there is none.

        No two parts share a cache. An engine takes ids of several parts in one step of its own, as
        many as it has room for; between those it looks at each part's deadline and cancel flag, and
        within one only at whether anybody still waits. A part that fails leaves its own cache as it
        was, and the others advance: TimeUp, Cancelled, ValueError for ids that do not fit or once
        the engine is closed, UserError for what a user can mend. KeyboardInterrupt is raised, and
        whatever else a signal handler raises; the caches of parts that are not done are as they
        were.
        """
        ...

    def close(self) -> None:
        """Let go of all that the engine holds; it is of no use afterwards."""
        ...
