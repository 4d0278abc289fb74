"""Keys and values of the positions seen so far, in fp16, in blocks that caches can share.

A block holds BLOCK positions of a text, for all layers:

    [n_layer, n_head]  u16, of each
        keys    [BLOCK/16, head_dim, 16]         a lane is a position
        values  [ceil(head_dim/16), BLOCK, 16]   a lane is a dimension

u16 holds fp16 bits. What a block holds depends on the ids up to its end and on no cache's size, so
that texts with one beginning, a disk or another process can use it as it is.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Identity
from codegen_cli.engine_cpu.aligned_memory import paged_memory
from codegen_cli.kernels.step_table import BLOCK
from quantize.description.config import ModelConfig
from quantize.description.formats import LANES, LINE_BYTES, round_up
from quantize.files.errors import UserError

# Every other block begins half a page later: what is read of two blocks at the same place would
# else fall into the same sets of a cache.
_STAGGER_BYTES = 2048 + LINE_BYTES

Block = npt.NDArray[np.uint16]


class KVCache:
    """Keys and values of a text's first n_past ids, with room for n_positions.

    addresses  [n_blocks] i64, of the blocks that there are, else 0

    A block is allocated when its first position is needed. One that several caches have is copied
    by whoever wants to write into it.
    """

    def __init__(
        self, config: ModelConfig, identity: Identity, n_positions: int | None = None
    ) -> None:
        self.n_past = 0
        self.identity = identity
        self.n_positions = config.n_positions if n_positions is None else n_positions
        self.addresses = np.zeros(n_blocks(self.n_positions), np.int64)
        self._shape = _block_shape(config)
        self._blocks: list[Block] = []
        self._n_shared = 0  # of the first blocks, those that other caches may have

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those that there are."""
        return tuple(self._blocks)

    def make_room(self, start: int, end: int) -> None:
        """Have positions from start up to end in blocks that nobody else has.

        start  n_past, or later: what stood there before is forgotten

        Raises UserError where there is no memory for them.
        """
        try:
            self._make_room(start, end)
        except MemoryError as error:
            raise UserError(
                f"there is no memory left for the keys and values of {end} tokens of a text",
                "Use a smaller model, complete fewer texts at once, or end other programs.",
            ) from error

    def begin_with(self, other: "KVCache", n_past: int) -> None:
        """Take over the first n_past positions of another cache of this identity; MemoryError.

        Whole blocks are shared; the last positions, of less than a block, are copied.
        """
        n_whole = n_past // BLOCK
        own = [other._copy(n_whole)] if n_past % BLOCK else []
        self._append(other._blocks[:n_whole] + own)
        self._n_shared = n_whole
        other._n_shared = max(other._n_shared, n_whole)
        self.n_past = n_past

    def _make_room(self, start: int, end: int) -> None:
        first = start // BLOCK
        if first < self._n_shared:
            own = [self._copy(first)] if start % BLOCK else []
            del self._blocks[first:]
            self._n_shared = first
            self._append(own)
        while len(self._blocks) < n_blocks(end):
            self._append([self._new_block()])

    def _append(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            self.addresses[len(self._blocks)] = block.ctypes.data
            self._blocks.append(block)

    def _copy(self, index: int) -> Block:
        copy = self._new_block()
        copy[:] = self._blocks[index]
        return copy

    def _new_block(self) -> Block:
        n_bytes = 2 * int(np.prod(self._shape))
        memory = paged_memory(n_bytes, len(self._blocks) % 2 * _STAGGER_BYTES)
        return memory.view(np.uint16).reshape(self._shape)


def n_blocks(n_positions: int) -> int:
    """Return the blocks of so many positions."""
    return -(-n_positions // BLOCK)


def cache_bytes(config: ModelConfig, n_positions: int | None = None) -> int:
    """Return the bytes of a KVCache for so many positions (None: all of this model)."""
    n = config.n_positions if n_positions is None else n_positions
    return n_blocks(n) * BLOCK * position_bytes(config)


def position_bytes(config: ModelConfig) -> int:
    """Return the bytes of keys and values that one position adds to what each later token reads."""
    return 2 * int(np.prod(_block_shape(config))) // BLOCK


def capacity_of(config: ModelConfig) -> int:
    """Return the most positions that attention goes over: n_positions rounded up to 16."""
    return round_up(config.n_positions, LANES)


def _block_shape(config: ModelConfig) -> tuple[int, int, int]:
    numbers = BLOCK * (config.head_dim + round_up(config.head_dim, LANES))
    return config.n_layer, config.n_head, numbers
