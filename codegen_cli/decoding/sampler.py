"""Logits and a uniform number -> the id of the next token; filters composed once."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
Sampler = Callable[[npt.NDArray[np.float32], float], int]
# (ids [n], weights [n], proportional to probabilities) -> those that may still be drawn
Filter = Callable[[Ids, Weights], tuple[Ids, Weights]]

# exp(-56) < 2**-80: of 2**16 ids so much lighter than the best, all together weigh less than 2**-64
# of the whole, while a draw moves in steps of 2**-53. At low temperatures few ids remain.
_NEGLIGIBLE = 56.0


def make_sampler(
    temperature: float, top_p: float, top_k: int, forbidden_ids: Sequence[int]
) -> Sampler:
    """Return a function (logits f32 [vocab_size], uniform in [0, 1)) -> id.

    temperature     divides the logits; 0 takes the largest, of equal ones the lowest id
    top_p           1 keeps all, else see keep_top_p; applied after top_k
    top_k           0 keeps all, else see keep_top_k
    forbidden_ids   [n] never returned

    The logits are left as they are. Raises ValueError on logits that are not finite.
    """
    forbidden, never = np.array(forbidden_ids, np.int64), frozenset(forbidden_ids)
    filters: list[Filter] = []
    if top_k > 0:
        filters.append(lambda ids, weights: keep_top_k(ids, weights, top_k))
    if top_p < 1:
        filters.append(lambda ids, weights: keep_top_p(ids, weights, top_p))

    def sample(logits: npt.NDArray[np.float32], uniform: float) -> int:
        best = int(logits.argmax())  # the first NaN, if there is one
        allowed = logits
        if temperature > 0 or best in never:  # else a copy would change nothing
            allowed = logits.copy()
            allowed[forbidden] = -np.inf
            best = int(allowed.argmax())
        if not np.isfinite(allowed[best]):
            raise ValueError(f"logits are not finite: {logits[best]} for id {best}")
        if temperature == 0:
            return best
        ids, weights = weigh(allowed, best, temperature)
        for keep in filters:
            ids, weights = keep(ids, weights)
        return draw(ids, weights, uniform)

    return sample


def weigh(logits: npt.NDArray[np.float32], best: int, temperature: float) -> tuple[Ids, Weights]:
    """Return the ids that a draw can hit and their weights exp((logit - largest) / temperature).

    `best` is the index of the largest logit: its weight is 1, so nothing overflows.
    """
    largest = float(logits[best])
    least = max(largest - _NEGLIGIBLE * temperature, float(np.finfo(np.float32).min))
    ids = np.flatnonzero(logits >= np.float32(least))
    return ids, np.exp((logits[ids].astype(np.float64) - largest) / temperature)


def keep_top_k(ids: Ids, weights: Weights, top_k: int) -> tuple[Ids, Weights]:
    """Keep the top_k largest weights, of equal ones the first; the order stays."""
    if top_k >= len(ids):
        return ids, weights
    return _keep_largest(ids, weights, top_k, np.partition(weights, -top_k)[-top_k])


def keep_top_p(ids: Ids, weights: Weights, top_p: float) -> tuple[Ids, Weights]:
    """Keep the fewest ids that hold top_p of the whole weight, of equal ones the first.

    The nucleus of Holtzman et al., The Curious Case of Neural Text Degeneration (2019): the id
    that crosses top_p is kept, so there is always one. The order stays.
    """
    whole = weights.sum()
    # All ids lighter than (1 - top_p) / n of the whole weigh less than 1 - top_p together: none is
    # in the nucleus, and only the others need sorting. Half of that leaves room for rounding.
    heavy = weights[weights >= whole * (1 - top_p) / (2 * len(weights))]
    heavy[::-1].sort()
    n_kept = int(np.searchsorted(np.cumsum(heavy), top_p * whole)) + 1
    n_kept = min(n_kept, len(heavy))  # a sum that rounded to less than top_p of the whole
    return _keep_largest(ids, weights, n_kept, heavy[n_kept - 1])


def _keep_largest(
    ids: Ids, weights: Weights, n_kept: int, smallest: np.float64
) -> tuple[Ids, Weights]:
    """Keep n_kept ids, given the weight of the smallest among them."""
    kept = weights > smallest
    equals = np.flatnonzero(weights == smallest)
    kept[equals[: n_kept - np.count_nonzero(kept)]] = True
    return ids[kept], weights[kept]


def draw(ids: Ids, weights: Weights, uniform: float) -> int:
    """Return the id whose share of the weights laid end to end holds the uniform number."""
    ends = np.cumsum(weights)
    # uniform <= 1 - 2**-53, so the product rounds to less than ends[-1]: there is such an id.
    return int(ids[np.searchsorted(ends, uniform * ends[-1], side="right")])
