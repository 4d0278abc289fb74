"""Logits and the id drawn from them -> how likely that was, and what else was likely.

Natural logarithms of probabilities over all vocab_size rows of the head, before temperature and
filters, in float64: what transformers' log_softmax gives for the same logits. Rows without a token
count in the sum, as in `score`, and are never among the likeliest.

Of the same logits every CPU makes the same bits: NumPy's exp and the C library's log differ between
CPUs in the last bit, so both are made of sums and products here, which IEEE 754 rounds in one way.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from codegen_cli.decoding.sampled_tokens import IdLikelihood

Logits = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# 2**16 ids whose logits are so far below the largest add less to a sum than its last bit.
_FAR = 48.0
_LN2_HIGH = 0.693147180369123816490  # of few bits: n times it is exact
_LN2_LOW = 1.90821492927058770002e-10
_TAYLOR = [1 / math.factorial(k) for k in range(14, -1, -1)]
_ARTANH = 23  # the last power: 0.2**25 / 25 is less than 2**-62

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
            values -= _log(float(_exp(values[~(values < -_FAR)]).sum()))
        log_probability = float(values[drawn])
        values[missing] = -np.inf
        ids = _largest(values, n_likeliest)
        return IdLikelihood(log_probability, tuple((i, float(values[i])) for i in ids))

    return likelihood


def _exp(x: Float64) -> Float64:
    """Return e**x of numbers in [-745, 709], within some 2e-16 of it: Taylor's series about 0."""
    n = np.rint(x * (1 / math.log(2)))
    rest = (x - n * _LN2_HIGH) - n * _LN2_LOW  # within half of ln 2
    power = np.full_like(x, _TAYLOR[0])
    for coefficient in _TAYLOR[1:]:
        power *= rest
        power += coefficient
    return np.ldexp(power, n.astype(np.int32))


def _log(x: float) -> float:
    """Return ln x of a number above 0: ln m = 2 artanh((m - 1) / (m + 1)), m in [0.7, 1.5]."""
    m, n = math.frexp(x)
    if m < 0.7:
        m, n = 2 * m, n - 1
    z = (m - 1) / (m + 1)
    series = 0.0
    for k in range(_ARTANH, 0, -2):  # z + z**3 / 3 + z**5 / 5 ...
        series = series * (z * z) + 1 / k
    return n * _LN2_HIGH + (2 * z * series + n * _LN2_LOW)


def _largest(values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Return the indices of the `count` largest, best first, of equal ones the lowest first."""
    count = min(count, int(np.isfinite(values).sum()))
    if count == 0:
        return []
    found = np.flatnonzero(values >= np.partition(values, -count)[-count])
    best: list[int] = found[np.argsort(-values[found], kind="stable")][:count].tolist()
    return best
