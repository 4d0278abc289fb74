"""Keys and values of the positions seen so far, in fp16."""

import math

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Identity
from quantize.description.config import ModelConfig
from quantize.description.formats import LANES, round_up


class KVCache:
    """Allocated once for n_positions, by default all that the model has; n_past are filled.

    keys    [n_layer, n_head, capacity/16, head_dim, 16]        u16  a lane is a position
    values  [n_layer, n_head, ceil(head_dim/16), capacity, 16]  u16  a lane is a dimension

    u16 holds fp16 bits; capacity is n_positions rounded up to 16. The operating system hands out
    the zeroed memory as positions are filled: page by page, or, in huge pages, nearly all of it
    with the first one. So a cache should be no larger than a text can become.
    """

    def __init__(
        self, config: ModelConfig, identity: Identity, n_positions: int | None = None
    ) -> None:
        self.n_past = 0
        self.identity = identity
        self.n_positions = config.n_positions if n_positions is None else n_positions
        self.capacity = round_up(self.n_positions, LANES)
        keys, values = _shapes(config, self.capacity)
        self.keys: npt.NDArray[np.uint16] = np.zeros(keys, np.uint16)
        self.values: npt.NDArray[np.uint16] = np.zeros(values, np.uint16)

    def begin_with(self, other: "KVCache", n_past: int) -> None:
        """Take over the first n_past positions of another cache of this identity."""
        tiles = round_up(n_past, LANES)
        self.keys[:, :, : tiles // LANES] = other.keys[:, :, : tiles // LANES]
        self.values[:, :, :, :tiles] = other.values[:, :, :, :tiles]
        self.n_past = n_past


def cache_bytes(config: ModelConfig, n_positions: int | None = None) -> int:
    """Return the bytes of a KVCache for so many positions (None: all of this model)."""
    positions = config.n_positions if n_positions is None else n_positions
    return sum(2 * math.prod(shape) for shape in _shapes(config, round_up(positions, LANES)))


def position_bytes(config: ModelConfig) -> int:
    """Return the bytes of keys and values that one position adds to what each later token reads."""
    return cache_bytes(config, LANES) // LANES


def capacity_of(config: ModelConfig) -> int:
    """Return the positions that the largest cache holds: n_positions rounded up to 16."""
    return round_up(config.n_positions, LANES)


def _shapes(config: ModelConfig, capacity: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of keys and values."""
    head_dim = config.head_dim
    heads = (config.n_layer, config.n_head)
    return (
        (*heads, capacity // LANES, head_dim, LANES),
        (*heads, round_up(head_dim, LANES) // LANES, capacity, LANES),
    )
