"""A packed file -> the contract's Engine, in compiled kernels on a team of threads."""

import weakref
from collections.abc import Sequence
from functools import partial

import numpy as np

from codegen_cli.contract.cache_checks import check_beginning, checked_positions
from codegen_cli.contract.deadline import Deadline, TimeUp
from codegen_cli.contract.engine import Cache, Cancelled, Identity, Part, Result
from codegen_cli.contract.outcomes import outcomes
from codegen_cli.contract.part_checks import check_in_time, checked
from codegen_cli.engine_cpu.buffers import CHUNK
from codegen_cli.engine_cpu.kv_cache import KVCache, cache_bytes, position_bytes
from codegen_cli.engine_cpu.reading import Reading
from codegen_cli.engine_cpu.step_filling import StepTable
from codegen_cli.engine_cpu.step_output import new_output
from codegen_cli.engine_cpu.step_plan import plan_step
from codegen_cli.engine_cpu.threads import Step, Team
from codegen_cli.machine import cpu
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile
from quantize.packed.sizes import bits_per_weight, weight_bytes

# To be raised with any change of the kernels that changes a bit of keys or values.
_NUMERICS = 2


def identity_of(header_sha256: str) -> Identity:
    """Return what the keys and values of a packed file depend on, before any engine runs it."""
    return Identity(header_sha256, "numba", "float16", _NUMERICS)


class _NobodyWaits(Exception):
    """Of no part of a step anything more is to be computed."""


class NumbaEngine:
    """The forward pass of one packed file on a team of threads; contract.engine tells the rest.

    The ids of all parts go through the matrices together, CHUNK of them a step, each text's through
    an attention of its own. Several threads may call at once: they take turns, a step a turn. The
    same ids give the same bits whether they come one by one, in parts or at once, and whatever is
    read beside them. What ends the last part of a step early does so within one layer's time, what
    ends another part after the step.
    """

    n_read = CHUNK

    def __init__(self, packed: PackedFile, step: Step, n_threads: int) -> None:
        self.config = packed.config
        self.n_positions = packed.config.n_positions
        self.format = packed.format
        self.bits_per_weight = bits_per_weight(packed)
        self.token_bytes = sum(weight_bytes(packed).values())
        self.position_bytes = position_bytes(packed.config)
        threads = f"{n_threads} thread{'s' * (n_threads > 1)}"
        self.device = f"{threads}, {cpu.kernel_path()} kernels, {cpu.name()}"
        self.identity = identity_of(packed.header_sha256)
        self.path = packed.path
        try:
            self._table = StepTable(packed, n_threads)
        except MemoryError as error:
            raise self._out_of_memory() from error
        self._team = Team(n_threads, step)
        # For an engine that nobody closes; at exit too, before the weights are unmapped.
        weakref.finalize(self, self._team.close)

    def new_cache(self, n_positions: int | None = None) -> KVCache:
        """Return an empty cache for so many ids (None: all that the model can see)."""
        n = checked_positions(n_positions, self.n_positions)
        try:
            return KVCache(self.config, self.identity, n)
        except MemoryError as error:
            raise self._out_of_memory() from error

    def cache_bytes(self, n_positions: int | None = None) -> int:
        """Return the bytes of keys and values of such a cache."""
        return cache_bytes(self.config, n_positions)

    def copy_cache(self, cache: Cache, n_past: int, n_positions: int | None = None) -> KVCache:
        """Return a new cache that begins with the first n_past ids of another."""
        source = self._own(cache)
        copy = self.new_cache(n_positions)
        check_beginning(n_past, source, copy)
        try:
            copy.begin_with(source, n_past)
        except MemoryError as error:
            raise self._out_of_memory() from error
        return copy

    def random_cache(self, n_positions: int | None = None) -> KVCache:
        """Return a full cache of random keys and values: memory never written to is no memory."""
        random, cache = np.random.default_rng(0), self.new_cache(n_positions)
        cache.make_room(0, cache.n_positions)
        for block in cache.blocks:
            for layer in block:
                layer[:] = random.standard_normal(layer.shape, np.float32).astype("<f2").view("<u2")
        cache.n_past = cache.n_positions
        return cache

    def read_speed(self) -> float | None:
        """Return None: it computes in the memory of the host."""
        return None

    def forward(self, parts: Sequence[Part]) -> list[Result | Exception]:
        """Append each part's ids to its cache; return what it wanted, or why there is none."""
        return outcomes(parts, self._reading, self._step)

    def close(self) -> None:
        """End the threads; the engine is of no use afterwards."""
        self._team.close()

    def _reading(self, part: Part) -> Reading:
        config = self.config
        n_columns = config.vocab_size if part.wanted == "logits" else config.n_embd
        return Reading(part, self._own(part.cache), checked(part, config.vocab_size), n_columns)

    def _step(self, readings: Sequence[Reading]) -> None:
        """Read on for those of which the next step takes ids."""
        plan = plan_step(readings, self._table.most_ids)
        if not plan.taken:
            return
        output = new_output(plan, self._table, self.config)
        parts = [reading.part for reading, _ in plan.taken]
        try:
            self._team.run(
                partial(self._table.fill, plan, output.arrays),
                partial(_check_somebody_waits, parts),
                _last_deadline(parts),
            )
        except _NobodyWaits:
            return
        except ValueError as error:  # the engine is closed
            for reading, _ in plan.taken:
                reading.outcome = error
            return
        plan.hand_out(output.result())

    def _own(self, cache: Cache) -> KVCache:
        if not isinstance(cache, KVCache) or cache.identity != self.identity:
            raise ValueError("the cache was made for another model")
        return cache

    def _out_of_memory(self) -> UserError:
        """Return the error where the arrays for what a config claims cannot be had."""
        return UserError(
            f"{self.path} needs {cache_bytes(self.config) / 1e9:.1f} GB of memory for its "
            f"{self.n_positions} positions, which this machine does not give",
            "Use a smaller model, or end other programs.",
        )


def _check_somebody_waits(parts: Sequence[Part]) -> None:
    """Raise _NobodyWaits once nothing more is to be computed for any of them."""
    for part in parts:
        try:
            check_in_time(part)
        except (TimeUp, Cancelled):
            continue
        return
    raise _NobodyWaits


def _last_deadline(parts: Sequence[Part]) -> Deadline:
    """Return when the last part ends at the latest."""
    deadlines = [part.deadline for part in parts if part.deadline is not None]
    return max(deadlines) if len(deadlines) == len(parts) else None
