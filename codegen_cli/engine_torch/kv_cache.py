"""Keys and values of the positions seen so far, in slots that caches borrow."""

import threading
import weakref
from collections.abc import Sequence

import torch

from codegen_cli.contract.engine import Identity
from quantize.description.config import ModelConfig
from quantize.description.formats import round_up

SPAN = 256
"""Positions by which a slot, and what attention reads of it, grows."""

_MOST_FREE = 4


class Slot:
    """Room for the keys and values of one text, beside the layers that read them.

    keys, values  for each layer [n_head, capacity, head_dim], in the compute dtype
    """

    def __init__(
        self,
        config: ModelConfig,
        identity: Identity,
        capacity: int,
        dtype: torch.dtype,
        devices: Sequence[torch.device],
    ) -> None:
        shape = (config.n_head, capacity, config.head_dim)
        self.identity = identity
        self.capacity = capacity
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for device in devices]

    def clear(self) -> None:
        """Forget all: whatever is not finite would reach a masked position as NaN."""
        for tensor in (*self.keys, *self.values):
            tensor.zero_()

    def begin_with(self, other: "Slot", n: int) -> None:
        """Take over the first n positions of another."""
        for own, others in zip(
            (*self.keys, *self.values), (*other.keys, *other.values), strict=True
        ):
            own[:, :n] = others[:, :n]


class KVCache:
    """The keys and values of one text in a slot that it borrows; n_past of n_positions are filled.

    ids     of the text, and perhaps more: the first n_past count
    n_kept  ids whose keys and values are in the slot; fewer than n_past where the slot is a new
            one, of another dtype: the others have to be read again
    """

    slot: Slot

    def __init__(self, n_positions: int) -> None:
        self.n_past = 0
        self.ids: list[int] = []
        self.n_kept = 0
        self.n_positions = n_positions
        self._loan: weakref.finalize[..., KVCache] | None = None

    @property
    def identity(self) -> Identity:
        """Whose cache it is."""
        return self.slot.identity

    def borrow(self, slots: "Slots") -> None:
        """Have an empty slot, in place of the one there was."""
        slot = slots.take(self.n_positions)
        if self._loan is not None:
            self._loan.detach()
        self.slot, self.n_kept = slot, 0
        self._loan = weakref.finalize(self, slots.give_back, self.slot)
        self._loan.atexit = False

    def keep(self, n_past: int) -> None:
        """Note that the slot has the keys and values of so many ids, of which the text's count."""
        self.n_kept = min(n_past, self.n_past)

    def advance(self, ids: Sequence[int]) -> None:
        """Count ids in, whose keys and values are in the slot."""
        self.ids[self.n_past :] = ids
        self.n_past += len(ids)
        self.n_kept = self.n_past


class Slots:
    """The slots of a model in one dtype: handed out, and taken back when their cache is gone.

    They keep their addresses, so that what was captured for one (a CUDA graph) serves the next.
    """

    def __init__(
        self,
        config: ModelConfig,
        identity: Identity,
        dtype: torch.dtype,
        devices: Sequence[torch.device],
    ) -> None:
        self.identity = identity
        self.dtype = dtype
        self._config, self._devices = config, devices
        self._free: list[Slot] = []
        # A cache may be collected anywhere, even within `take`: so the same thread may enter again.
        self._state = threading.RLock()

    def take(self, n_positions: int) -> Slot:
        """Return an empty slot with room for so many ids."""
        capacity = round_up(n_positions, SPAN)
        slot = self._take_free(capacity)
        if slot is not None:
            slot.clear()
            return slot
        try:
            return self._new(capacity)
        except torch.OutOfMemoryError:
            with self._state:
                self._free.clear()
            return self._new(capacity)

    def give_back(self, slot: Slot) -> None:
        """Keep a slot for the next text of its size; let go of the one that waited longest."""
        with self._state:
            self._free.append(slot)
            del self._free[:-_MOST_FREE]

    def _take_free(self, capacity: int) -> Slot | None:
        """Return the one that was used last: most has been recorded for it."""
        with self._state:
            for i in reversed(range(len(self._free))):
                if self._free[i].capacity == capacity:
                    return self._free.pop(i)
        return None

    def _new(self, capacity: int) -> Slot:
        return Slot(self._config, self.identity, capacity, self.dtype, self._devices)


def cache_bytes(config: ModelConfig, n_positions: int, dtype: torch.dtype) -> int:
    """Return the bytes of a slot for so many ids."""
    return round_up(n_positions, SPAN) * position_bytes(config, dtype)


def position_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of keys and values of one position."""
    return 2 * config.n_layer * config.n_embd * int(dtype.itemsize)
