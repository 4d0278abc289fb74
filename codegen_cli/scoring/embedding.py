"""A text -> one vector: the mean of its tokens' hidden states, or the last of them."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Cache, Part
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.contract.stream import Stream
from codegen_cli.scoring.windows import Progress, window_parts, windows
from codegen_cli.text.vocabulary import check_ids
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.text.tokenizer import Tokenizer

Pool = Literal["mean", "last"]
Float32 = npt.NDArray[np.float32]


class EmbeddingStream:
    """The vector of a text: a stream of Progress, then float32 [n_embd].

    pool  "mean" of the states after ln_f of all tokens, or the "last" token's

    A text longer than the context is read in windows: every token's state is taken once, after all
    tokens before it or at least half a context of them. `<|endoftext|>` is text in it unless
    special_tokens are asked for. Raises UserError for an empty text and for ids that the model
    lacks.
    """

    def __init__(
        self,
        text: str,
        tokenizer: "Tokenizer",
        vocab_size: int,
        pool: Pool,
        *,
        special_tokens: bool = False,
    ) -> None:
        self._pool = pool
        self._ids = run_interruptibly(lambda: tokenizer.encode(text, special_tokens=special_tokens))
        if not text:
            raise UserError(
                "the text is empty: it has no hidden states", "Give a text with content."
            )
        check_ids(self._ids, vocab_size, "the text")

    @property
    def n_ids(self) -> int:
        """How many ids are read: a cache for so many, or for a context of fewer, will do."""
        return len(self._ids)

    def run(self, cache: Cache, n_read: int) -> Stream[Progress, Float32]:
        """Ask and pool, once; the cache is empty, and of this text alone.

        n_read  as of an Engine
        """
        pool = self._last if self._pool == "last" else self._mean
        return pool(cache, n_read)

    def _mean(self, cache: Cache, n_read: int) -> Stream[Progress, Float32]:
        n_ids, total = len(self._ids), np.zeros(1)

        def part_of(start: int, end: int, n_wanted: int) -> Part:
            return Part(self._ids[start:end], cache, n_wanted, "hidden_states")

        for at, part in window_parts(n_ids, cache, n_read, part_of):
            answer = yield part
            assert answer is not None
            if part.n_wanted:
                total = total + answer.result.sum(axis=0, dtype=np.float64)
                yield at + part.n_wanted, n_ids
        return (total / n_ids).astype(np.float32)

    def _last(self, cache: Cache, n_read: int) -> Stream[Progress, Float32]:
        """Of the windows only the last one has to be read."""
        n_ids = len(self._ids)
        *_, last = windows(n_ids, cache.n_positions)
        answer = yield Part(self._ids[last.start :], cache, 1, "hidden_states")
        assert answer is not None
        yield n_ids, n_ids
        return answer.result.reshape(-1)  # type: ignore[no-any-return]
