"""The arrays that a step works in, allocated once for chunks of up to `max_tokens` ids."""

from typing import Any

import numpy as np
import numpy.typing as npt

from codegen_cli.engine_cpu.aligned_memory import aligned_zeros
from codegen_cli.engine_cpu.kv_cache import capacity_of
from codegen_cli.kernels.step_table import (
    ACTIVATIONS,
    BARRIER_SLOTS,
    COUNTERS,
    LINE_SLOTS,
    MOST_QUERIES,
    SPAN,
    TEXT,
)
from quantize.description.config import ModelConfig
from quantize.description.formats import BAND, GROUP, LANES, bands_of, groups_of, round_up

# Ids a step takes at once. Each band of weights is read once per chunk; more ids would overflow
# the first-level cache with their activations, fewer would read the weights more often.
CHUNK = 64

# All that a published model has: it is filled at once.
_ROTARY_ROWS = 2048


class Buffers:
    """Working memory of a step; kernels.step_table gives the shape of each array."""

    def __init__(self, config: ModelConfig, n_threads: int, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        n_embd, n_inner = groups_of(config.n_embd) * GROUP, groups_of(config.n_inner) * GROUP
        capacity = capacity_of(config)
        n_counters = COUNTERS * config.n_layer + 1
        self._activations: list[npt.NDArray[np.generic]] = []
        self.arrays = {
            "texts": aligned_zeros((max_tokens,), TEXT),
            "ids": aligned_zeros((max_tokens,), np.int64),
            "wanted": aligned_zeros((max_tokens,), np.int64),
            "hidden": aligned_zeros((max_tokens, n_embd), np.float32),
            "delta": aligned_zeros((max_tokens, n_embd), np.float32),
            "qkv": aligned_zeros((max_tokens, bands_of(3 * config.n_embd) * BAND), np.float32),
            "spans": aligned_zeros((n_threads, max_tokens, SPAN), np.float32),
            "scores": aligned_zeros((n_threads, MOST_QUERIES, capacity + LANES), np.float32),
            "chains": aligned_zeros((n_threads, n_chains(config), LANES), np.float32),
            "inverses": aligned_zeros((n_threads, LANES), np.float32),
            "scaled": aligned_zeros((n_threads, LANES), np.float32),
            "counters": aligned_zeros((n_counters, n_threads, LINE_SLOTS), np.int64),
            "barrier": aligned_zeros((BARRIER_SLOTS,), np.int64),
        }
        self.records = {
            "normed": self._activations_record(n_embd),
            "attended": self._activations_record(n_embd),
            "inner": self._activations_record(n_inner),
        }

    @property
    def memory_bytes(self) -> int:
        """The bytes of all arrays."""
        arrays = [*self.arrays.values(), *self._activations]
        return sum(array.nbytes for array in arrays)

    def _activations_record(self, n: int) -> Any:
        record = np.zeros(1, ACTIVATIONS)[0]
        record["n"] = n
        for field, columns, dtype in (
            ("values", n, np.float32),
            ("codes", n, np.int8),
            ("scales", n // GROUP, np.float32),
            ("sums", n // GROUP, np.float32),
        ):
            array = aligned_zeros((self.max_tokens * columns,), dtype)
            self._activations.append(array)
            record[field] = array.ctypes.data
        return record


def n_chains(config: ModelConfig) -> int:
    """Return how many sums of 16 lanes attention keeps, of some queries or of a whole head."""
    return 4 * max(MOST_QUERIES, round_up(config.head_dim, LANES) // LANES)


class RotaryTables:
    """Cosines and sines [capacity, rotary_dim / 2] float32 of the rotary embedding.

    The angle of pair i is position * 10000**(-2 i / rotary_dim), rounded to float32 as in
    transformers' CodeGen: at position 2000 a float64 angle differs by 1e-4.

    Rows are filled when positions need them: only as much of the zeroed memory is really taken,
    whatever n_positions a file claims.
    """

    def __init__(self, config: ModelConfig) -> None:
        exponents = np.arange(0, config.rotary_dim, 2, dtype=np.float32)
        exponents /= np.float32(config.rotary_dim)
        self._frequencies = np.float32(1) / np.float32(10000) ** exponents
        shape = (capacity_of(config), config.rotary_dim // 2)
        self.cosines: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
        self.sines: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
        self._n_filled = 0

    def fill(self, n_positions: int) -> None:
        """Make the rows of the first n_positions ready."""
        while self._n_filled < n_positions:
            rows = slice(self._n_filled, min(self._n_filled + _ROTARY_ROWS, len(self.cosines)))
            positions = np.arange(rows.start, rows.stop, dtype=np.float32)
            angles = positions[:, None] * self._frequencies
            self.cosines[rows], self.sines[rows] = np.cos(angles), np.sin(angles)
            self._n_filled = rows.stop
