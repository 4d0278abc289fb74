"""A packed file -> the contract's Engine, in PyTorch on the devices of its layers."""

import threading
from collections.abc import Sequence

import torch

from codegen_cli.contract.cache_checks import check_beginning, checked_positions
from codegen_cli.contract.engine import Cache, Identity, Part, Result
from codegen_cli.contract.outcomes import outcomes
from codegen_cli.contract.part_checks import checked
from codegen_cli.engine_torch.copy_speed import copy_bytes_per_second
from codegen_cli.engine_torch.devices import free_memory
from codegen_cli.engine_torch.failures import device_failures
from codegen_cli.engine_torch.kv_cache import KVCache, Slots, cache_bytes, position_bytes
from codegen_cli.engine_torch.model import Model
from codegen_cli.engine_torch.placement import Placement
from codegen_cli.engine_torch.reading import Chunk, Reading
from codegen_cli.engine_torch.steps import Record, Steps, Text
from codegen_cli.engine_torch.weights import Weights
from codegen_cli.terminal import console
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile
from quantize.packed.sizes import bits_per_weight, weight_bytes

# To be raised with any change of the arithmetic here.
_NUMERICS = 1

CHUNK = 512
"""Most ids in a step: between steps Ctrl-C, deadlines and cancel flags are heard."""


class TorchEngine:
    """The forward pass of one packed file in PyTorch; contract.engine tells the rest.

    The ids of all parts of a step go through the matrices together, each text's through an
    attention of its own. Several threads may call at once: they take turns, a step a turn.
    """

    n_read = CHUNK

    def __init__(
        self,
        packed: PackedFile,
        placement: Placement,
        dtypes: Sequence[torch.dtype],
        record: Record | None = None,
        n_threads: int | None = None,
    ) -> None:
        """Bring the weights to their devices.

        dtypes  to compute in: the first, and once values grow beyond what it holds the next
        record  records steps; None: none is recorded
        n_threads  that PyTorch computes with on the CPU; None: as many as it likes
        """
        self.config = packed.config
        self.n_positions = packed.config.n_positions
        self.format = packed.format
        self.bits_per_weight = bits_per_weight(packed)
        self.token_bytes = sum(weight_bytes(packed).values())
        self.path = packed.path
        self._header_sha256 = packed.header_sha256
        self._placement, self._n_threads = placement, n_threads
        self._turn = threading.Lock()
        with device_failures():
            weights = Weights(packed, placement.devices)
            model = Model(packed.config, weights, placement.devices)
            model.prepare(dtypes[0])
        self._steps: Steps | None = Steps(model, record)
        self._slots = self._new_slots(dtypes[0])
        self._wider_dtypes = list(dtypes[1:])

    @property
    def position_bytes(self) -> int:
        """Bytes of keys and values that a token reads for each position before it."""
        return position_bytes(self.config, self._slots.dtype)

    @property
    def device(self) -> str:
        """Where it computes, and in what."""
        return f"{self._placement}, {self.identity.dtype}"

    @property
    def identity(self) -> Identity:
        """Of the caches that it makes now."""
        return self._slots.identity

    def new_cache(self, n_positions: int | None = None) -> KVCache:
        """Return an empty cache for so many ids (None: all that the model can see)."""
        cache = KVCache(checked_positions(n_positions, self.n_positions))
        with device_failures():
            cache.borrow(self._slots)
        return cache

    def cache_bytes(self, n_positions: int | None = None) -> int:
        """Return the bytes of keys and values of such a cache."""
        n = self.n_positions if n_positions is None else n_positions
        return cache_bytes(self.config, n, self._slots.dtype)

    def copy_cache(self, cache: Cache, n_past: int, n_positions: int | None = None) -> KVCache:
        """Return a new cache that begins with the first n_past ids of another."""
        source = self._own(cache)
        copy = self.new_cache(n_positions)
        check_beginning(n_past, source, copy)
        copy.advance(source.ids[:n_past])
        copy.keep(source.n_kept if source.identity == copy.identity else 0)
        copy.slot.begin_with(source.slot, copy.n_kept)
        return copy

    def random_cache(self, n_positions: int | None = None) -> KVCache:
        """Return a full cache of random keys and values."""
        cache = self.new_cache(n_positions)
        with device_failures():
            for tensor in (*cache.slot.keys, *cache.slot.values):
                tensor.normal_()
        cache.advance([0] * cache.n_positions)
        return cache

    def read_speed(self) -> float | None:
        """Return the bytes per second that a copy reads and writes on the first device."""
        device = self._placement.devices[0]
        return None if device.type == "cpu" else copy_bytes_per_second(device)

    def forward(self, parts: Sequence[Part]) -> list[Result | Exception]:
        """Append each part's ids to its cache; return what it wanted, or why there is none."""
        if self._n_threads is not None:  # each thread that calls has a number of its own
            torch.set_num_threads(self._n_threads)
        with torch.no_grad():
            return outcomes(parts, self._reading, self._step)

    def close(self) -> None:
        """Let go of weights and slots; the engine is of no use afterwards."""
        with self._turn:
            self._steps = None
            self._slots = self._new_slots(self._slots.dtype)
        for device in set(self._placement.devices):
            free_memory(device)

    def _reading(self, part: Part) -> Reading:
        sound = checked(part, self.config.vocab_size)
        return Reading(part, self._own(part.cache), sound, self.config)

    def _step(self, readings: Sequence[Reading]) -> None:
        """Read on; where that fails, those that are not done end with the error."""
        with self._turn:
            try:
                if self._steps is not None:
                    with device_failures():
                        self._read_on(self._steps, readings)
                    return
                error: Exception = ValueError("the engine is closed")
            except UserError as failure:
                error = failure
        for reading in readings:
            if reading.outcome is None:
                reading.outcome = error

    def _read_on(self, steps: Steps, readings: Sequence[Reading]) -> None:
        taken: list[tuple[Reading, Chunk]] = []
        room = CHUNK
        for reading in readings:
            if reading.cache.identity != self.identity:  # of another dtype
                reading.cache.borrow(self._slots)
                reading.begin()
            chunk = reading.next_chunk(room)
            if chunk.ids:
                taken.append((reading, chunk))
                room -= len(chunk.ids)
        texts = [Text(chunk.ids, chunk.n_past, each.cache.slot) for each, chunk in taken]
        dtype = self._slots.dtype
        states = steps.states(texts, dtype)
        if self._wider_dtypes and not states.isfinite().all():
            self._widen(steps.model)
            return
        own = states.split([len(chunk.ids) for _, chunk in taken])
        for (reading, chunk), rows in zip(taken, own, strict=True):
            reading.take(chunk, rows, steps.model.logits)

    def _widen(self, model: Model) -> None:
        """Compute in the next dtype from now on; caches of the old one are read again."""
        old = self.identity.dtype
        self._slots = self._new_slots(self._wider_dtypes.pop(0))
        model.prepare(self._slots.dtype)
        console.warn(
            f"this model's values grow beyond what {old} holds: going on in {self.identity.dtype}"
        )

    def _new_slots(self, dtype: torch.dtype) -> Slots:
        name = str(dtype).removeprefix("torch.")
        identity = Identity(self._header_sha256, "torch", name, _NUMERICS)
        return Slots(self.config, identity, dtype, self._placement.devices)

    def _own(self, cache: Cache) -> KVCache:
        same = self.identity._replace(dtype=cache.identity.dtype)
        if not isinstance(cache, KVCache) or cache.identity != same:
            raise ValueError("the cache was made for another model")
        return cache
