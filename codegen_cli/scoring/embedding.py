"""A text -> one vector: the mean of its tokens' hidden states, or the last of them."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from codegen_cli.decoding.generate import check_ids
from codegen_cli.engine_cpu.buffers import CHUNK
from codegen_cli.engine_cpu.model import Model
from codegen_cli.engine_cpu.threads import run_interruptibly
from codegen_cli.scoring.windows import windows
from codegen_cli.text.tokenizer import Tokenizer
from quantize.files.errors import UserError

Pool = Literal["mean", "last"]
Float32 = npt.NDArray[np.float32]


def embed_text(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    pool: Pool,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
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
    check_ids(ids, model.config.vocab_size, "the text")
    if pool == "last":
        state = _last_state(model, ids)
        on_progress(len(ids), len(ids))
        return state
    total = np.zeros(model.config.n_embd)
    n_done = 0
    for states in _states(model, ids):
        total += states.sum(axis=0, dtype=np.float64)
        n_done += len(states)
        on_progress(n_done, len(ids))
    return (total / len(ids)).astype(np.float32)


def _states(model: Model, ids: list[int]) -> Iterator[Float32]:
    """Yield the hidden states of all ids, some rows at a time."""
    cache = model.new_cache()
    for window in windows(len(ids), model.n_positions):
        cache.n_past = 0
        if window.first_new > window.start:
            model.hidden_states(ids[window.start : window.first_new], cache, 0)
        for at in range(window.first_new, window.end, CHUNK):
            yield model.hidden_states(ids[at : min(at + CHUNK, window.end)], cache)


def _last_state(model: Model, ids: list[int]) -> Float32:
    """Return the last id's state; of the windows only the last one has to be read."""
    *_, last = windows(len(ids), model.n_positions)
    return model.hidden_states(ids[last.start :], model.new_cache(), 1).reshape(-1)
