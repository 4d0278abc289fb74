"""A part -> its ids and what is wanted of them, once they are known to fit the model and the cache.

An engine's arithmetic checks nothing: an id or a position out of range would read foreign memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.deadline import check_deadline
from codegen_cli.contract.engine import Cancelled, Part

Tokens = npt.NDArray[np.integer]


class CheckedPart(NamedTuple):
    """A part whose numbers are sound.

    tokens    [n_tokens] in [0, vocab_size)
    n_wanted  of how many of the last ids something is wanted
    targets   [n_wanted] i64, in [0, vocab_size); [0] unless log-probabilities are wanted
    """

    tokens: Tokens
    n_wanted: int
    targets: npt.NDArray[np.int64]


def checked(part: Part, vocab_size: int) -> CheckedPart:
    """Return what a part asks for; raises ValueError where it cannot be had."""
    tokens = checked_ids(part.ids, vocab_size)
    n_wanted = checked_n_wanted(part)
    cache = part.cache
    if cache.n_past + len(tokens) > cache.n_positions:
        raise ValueError(
            f"{cache.n_past} + {len(tokens)} ids exceed n_positions {cache.n_positions}"
        )
    if part.wanted != "log_probabilities":
        return CheckedPart(tokens, n_wanted, np.empty(0, np.int64))
    if n_wanted:
        checked_ids(part.targets, vocab_size)
    return CheckedPart(tokens, n_wanted, np.asarray(part.targets, np.int64))


def checked_n_wanted(part: Part) -> int:
    """Return of how many of a part's last ids something is wanted.

    Raises ValueError for more than there are, and unless each has its target where it needs one.
    """
    n_ids = len(part.ids)
    n_wanted = n_ids if part.n_wanted is None else part.n_wanted
    if not 0 <= n_wanted <= n_ids:
        raise ValueError(f"{n_wanted} results are wanted, of {n_ids} ids")
    if part.wanted == "log_probabilities" and len(part.targets) != n_wanted:
        raise ValueError(f"{len(part.targets)} targets, need {n_wanted}")
    return n_wanted


def checked_ids(ids: Sequence[int] | Tokens, vocab_size: int) -> Tokens:
    """Return ids as an array; raises ValueError unless each is one of the model's."""
    tokens = np.asarray(ids)
    if tokens.ndim != 1 or len(tokens) == 0:
        raise ValueError(f"ids must be a non-empty sequence, not of shape {tokens.shape}")
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"ids must be whole numbers, not {tokens.dtype}")
    values = tokens.tolist()  # of one id, NumPy's own minimum takes ten times as long
    if min(values) < 0 or max(values) >= vocab_size:
        raise ValueError(f"ids must lie in [0, {vocab_size})")
    return tokens


def check_in_time(part: Part) -> None:
    """Raise TimeUp or Cancelled once nothing more is to be computed for a part."""
    check_deadline(part.deadline)
    if part.cancel is not None and part.cancel.is_set():
        raise Cancelled
