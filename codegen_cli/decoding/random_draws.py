"""(seed, sample, position) -> one uniform number, whatever was drawn before it."""

import os

_MASK = 2**64 - 1
_ROUNDS = 10
# Multipliers and key increments (the golden ratio, sqrt(3) - 1) of Philox4x64.
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL_0, _WEYL_1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B


def uniform(seed: int, sample: int, position: int) -> float:
    """Return the draw in [0, 1) for one position of one sample, a multiple of 2**-53.

    All three are below 2**64. The draw is the same in every process and on every machine, so text
    does not depend on threads, on batches or on tokens that were guessed ahead.
    """
    return (_philox((position, sample, 0, 0), (seed, 0)) >> 11) * 2.0**-53


def fresh_seed() -> int:
    """Return a seed of 32 bits for a run that names none: short to type, exact in JSON."""
    return int.from_bytes(os.urandom(4))


def _philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> int:
    """Return the first word of Philox4x64-10 (Salmon et al., Parallel Random Numbers, SC11).

    NumPy has the same generator, but importing numpy.random takes 28 ms at every start.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0, product_1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c1 = (product_1 >> 64) ^ c1 ^ k0, product_1 & _MASK
        c2, c3 = (product_0 >> 64) ^ c3 ^ k1, product_0 & _MASK
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0
