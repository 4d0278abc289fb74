"""A text -> one vector: the mean of its tokens' hidden states, or the last of them."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.driver import Stream, drive
from codegen_cli.contract.engine import Cache, Engine, Part
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.scoring.windows import Progress, read_windows, windows
from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.vocabulary import check_ids
from quantize.files.errors import UserError

Pool = Literal["mean", "last"]
Float32 = npt.NDArray[np.float32]


def embed_text(
    engine: Engine,
    tokenizer: Tokenizer,
    text: str,
    pool: Pool,
    on_progress: Progress = lambda done, total: None,
    *,
    special_tokens: bool = False,
) -> Float32:
    """Return the vector of a text, float32 [n_embd].

    pool  "mean" of the states after ln_f of all tokens, or the "last" token's

    A text longer than the context is read in windows: every token's state is taken once, after all
    tokens before it or at least half a context of them. `<|endoftext|>` is text in it unless
    special_tokens are asked for. Raises UserError for an empty text and for ids that the model
    lacks.
    """
    ids = run_interruptibly(lambda: tokenizer.encode(text, special_tokens=special_tokens))
    if not text:
        raise UserError("the text is empty: it has no hidden states", "Give a text with content.")
    check_ids(ids, engine.config.vocab_size, "the text")
    if pool == "last":
        (state,) = drive(engine, _last_state(ids, engine.new_cache()))
        on_progress(len(ids), len(ids))
        return state  # type: ignore[no-any-return]
    total = np.zeros(engine.config.n_embd)
    n_done = 0
    for _, states in drive(engine, _states(ids, engine.new_cache(), engine.n_read)):
        total += states.sum(axis=0, dtype=np.float64)
        n_done += len(states)
        on_progress(n_done, len(ids))
    return (total / len(ids)).astype(np.float32)


def _states(ids: list[int], cache: Cache, n_read: int) -> Stream[tuple[int, Any], None]:
    """Make (index of an id, hidden states of it and some more), over all ids once."""

    def part_of(start: int, end: int, n_wanted: int) -> Part:
        return Part(ids[start:end], cache, n_wanted, "hidden_states")

    return read_windows(len(ids), cache, n_read, part_of)


def _last_state(ids: list[int], cache: Cache) -> Stream[Any, None]:
    """Make the last id's state; of the windows only the last one has to be read."""
    *_, last = windows(len(ids), cache.n_positions)
    answer = yield Part(ids[last.start :], cache, 1, "hidden_states")
    assert answer is not None
    yield answer.result.reshape(-1)
