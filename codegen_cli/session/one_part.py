"""An engine and its parts -> their results, or an error raised: for whoever runs no stream."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Cache, Engine, Float32, Part, Result

Ids = Sequence[int] | npt.NDArray[np.integer]


def run_part(engine: Engine, part: Part) -> Result:
    """Return what one part wanted; raises its error, as Engine.forward lists them."""
    return run_parts(engine, [part])[0]


def run_parts(engine: Engine, parts: Sequence[Part]) -> list[Result]:
    """Return what all parts of a step wanted; raises the first error of one."""
    results: list[Result] = []
    for outcome in engine.forward(parts):
        if isinstance(outcome, Exception):
            raise outcome
        results.append(outcome)
    return results


def logits_of(engine: Engine, ids: Ids, cache: Cache, n_wanted: int | None = None) -> Float32:
    """Append ids to a cache; return the logits that follow the last n_wanted of them (None: all).

    ids     [n_tokens] in [0, vocab_size)
    result  [n_wanted, vocab_size]
    """
    return cast(Float32, run_part(engine, Part(ids, cache, n_wanted)))


def states_of(engine: Engine, ids: Ids, cache: Cache, n_wanted: int | None = None) -> Float32:
    """Append ids to a cache; return what ln_f gives for the last n_wanted of them (None: all).

    result  [n_wanted, n_embd]; all else as for `logits_of`
    """
    return cast(Float32, run_part(engine, Part(ids, cache, n_wanted, "hidden_states")))
