"""Logits and the id drawn from them -> how likely that was, and what else was likely.

Natural logarithms of probabilities over all vocab_size rows of the head, before temperature and
filters, in float64: what transformers' log_softmax gives for the same logits. Rows without a token
count in the sum, as in `score`, and are never among the likeliest.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from codegen_cli.decoding.sampled_tokens import IdLikelihood

Logits = npt.NDArray[np.float32]


LikelihoodOf = Callable[[Logits, int], IdLikelihood | None]


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
