"""A packed file -> the contract's Engine, in compiled kernels on a team of threads."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.cache_checks import check_beginning, checked_positions
from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.engine import (
    Cache,
    Cancelled,
    Identity,
    LogProbabilities,
    Part,
    Result,
)
from codegen_cli.contract.part_checks import CheckedPart, Tokens, checked
from codegen_cli.engine_cpu.buffers import CHUNK, Buffers, RotaryTables
from codegen_cli.engine_cpu.kv_cache import KVCache, cache_bytes, position_bytes
from codegen_cli.engine_cpu.log_probabilities import log_probabilities
from codegen_cli.engine_cpu.threads import FillTable, Step, Team, yield_address
from codegen_cli.engine_cpu.weights import Weights
from codegen_cli.kernels.step_table import SPAN, STEP, SUMMARY
from codegen_cli.machine import cpu
from quantize.description.config import ACTIVATION_FUNCTIONS
from quantize.description.formats import BAND, round_up
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile
from quantize.packed.sizes import bits_per_weight, weight_bytes

# To be raised with any change of the kernels that changes a bit of keys or values.
_NUMERICS = 2

# What a step is told of the config, as config.json calls it.
_DIMENSIONS = ("n_layer", "n_head", "head_dim", "n_embd", "n_inner", "rotary_dim", "vocab_size")

Arrays = Mapping[str, npt.NDArray[Any]]
"""What a step reads or writes for its caller, by names of step_table.STEP."""


class _Chunk(NamedTuple):
    """What one step takes of a part's ids, and makes of the rows that the part wants."""

    ids: slice
    rows: slice

    @property
    def n_wanted(self) -> int:
        """Of how many of the ids something is wanted: of the last."""
        return len(range(self.rows.start, self.rows.stop))


class NumbaEngine:
    """The forward pass of one packed file on a team of threads; contract.engine tells the rest.

    Several threads may call at once, each with a cache of its own: they take turns, at most CHUNK
    ids a turn. The parts of a step run one after another. The same ids give the same bits whether
    they come one by one, in parts or at once. Whatever ends a part early does so within one
    layer's time.
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
        self.identity = Identity(packed.header_sha256, "numba", "float16", _NUMERICS)
        self.path = packed.path
        try:
            self._weights = Weights(packed)
            self._buffers = Buffers(self.config, n_threads, min(CHUNK, self.n_positions))
            self._rotary = RotaryTables(self.config)
        except MemoryError as error:
            raise self._out_of_memory() from error
        self._table = self._new_table()
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
        copy.begin_with(source, n_past)
        return copy

    def random_cache(self, n_positions: int | None = None) -> KVCache:
        """Return a full cache of random keys and values: memory never written to is no memory."""
        random, cache = np.random.default_rng(0), self.new_cache(n_positions)
        for part in (cache.keys, cache.values):
            for layer in part:
                layer[:] = random.standard_normal(layer.shape, np.float32).astype("<f2").view("<u2")
        cache.n_past = cache.n_positions
        return cache

    def read_speed(self) -> float | None:
        """Return None: it computes in the memory of the host."""
        return None

    def forward(self, parts: Sequence[Part]) -> list[Result | Exception]:
        """Append each part's ids to its cache; return what it wanted, or why there is none."""
        return [self._outcome(part) for part in parts]

    def close(self) -> None:
        """End the threads; the engine is of no use afterwards."""
        self._team.close()

    def _outcome(self, part: Part) -> Result | Exception:
        try:
            cache, sound = self._own(part.cache), checked(part, self.config.vocab_size)
            result = self._results(part, sound, cache)
        except (TimeUp, Cancelled, ValueError, UserError) as error:
            return error
        cache.n_past += len(sound.tokens)
        return result

    def _results(self, part: Part, sound: CheckedPart, cache: KVCache) -> Result:
        if part.wanted == "log_probabilities":
            return self._log_probabilities(part, sound, cache)
        if part.wanted == "hidden_states":
            output, n_padded, n = "states", int(self._table["normed"]["n"]), self.config.n_embd
        else:
            output, n_padded, n = "logits", self._head_rows, self.config.vocab_size
        values = np.empty((sound.n_wanted, n_padded), np.float32)
        for chunk in self._chunks(sound):
            self._run_step(part, sound.tokens, cache, chunk, {output: values[chunk.rows]})
        return values[:, :n]

    def _log_probabilities(
        self, part: Part, sound: CheckedPart, cache: KVCache
    ) -> LogProbabilities:
        """Have each step sum up its logits, of which no row is ever whole."""
        never = np.zeros(self._head_rows, np.float32)
        never[np.fromiter(part.never, np.int64, len(part.never))] = -np.inf
        found = LogProbabilities.empty(sound.n_wanted)
        n_spans = round_up(self._head_rows, SPAN) // SPAN
        for chunk in self._chunks(sound):
            own = sound.targets[chunk.rows]
            summaries = np.empty((len(own), n_spans), SUMMARY)
            arrays = {"summaries": summaries, "targets": own, "never": never}
            self._run_step(part, sound.tokens, cache, chunk, arrays)
            found.put(chunk.rows.start, log_probabilities(summaries, own, never))
        return found

    @property
    def _head_rows(self) -> int:
        """Rows of lm_head, whose bands of 16 may reach beyond vocab_size."""
        return int(self._table["lm_head"]["n_bands"]) * BAND

    def _chunks(self, sound: CheckedPart) -> Iterator[_Chunk]:
        """Yield what each step takes and makes of a part."""
        n_tokens = len(sound.tokens)
        n_unwanted = n_tokens - sound.n_wanted
        for start in range(0, n_tokens, self._buffers.max_tokens):
            end = min(start + self._buffers.max_tokens, n_tokens)
            rows = slice(max(start - n_unwanted, 0), max(end - n_unwanted, 0))
            yield _Chunk(slice(start, end), rows)

    def _run_step(
        self, part: Part, tokens: Tokens, cache: KVCache, chunk: _Chunk, arrays: Arrays
    ) -> None:
        """Compute a chunk of the ids that follow the cache's."""
        n_past = cache.n_past + chunk.ids.start
        fill_table = self._step_filler(tokens[chunk.ids], cache, n_past, chunk.n_wanted, arrays)
        self._team.run(fill_table, part.deadline, part.cancel)

    def _own(self, cache: Cache) -> KVCache:
        if not isinstance(cache, KVCache) or cache.identity != self.identity:
            raise ValueError("the cache was made for another model")
        return cache

    def _step_filler(
        self,
        ids: Tokens,
        cache: KVCache,
        n_past: int,
        n_wanted: int,
        arrays: Arrays,
    ) -> FillTable:
        """Return what prepares a step once all shared buffers are its own; it keeps all alive."""

        def fill_table(cancel: int, n_threads: int) -> int:
            table, buffers = self._table, self._buffers.arrays
            self._rotary.fill(n_past + len(ids))
            buffers["ids"][: len(ids)] = ids
            buffers["counters"].fill(0)
            buffers["barrier"].fill(0)
            table["n_threads"] = n_threads
            table["n_tokens"], table["n_past"], table["n_wanted"] = len(ids), n_past, n_wanted
            table["keys"], table["values"] = cache.keys.ctypes.data, cache.values.ctypes.data
            table["capacity"] = cache.capacity
            table["cancel"] = cancel
            table["states"] = table["normed"]["values"]
            table["logits"] = table["summaries"] = 0
            for name, array in arrays.items():
                table[name] = array.ctypes.data
            return table.ctypes.data

        return fill_table

    def _new_table(self) -> npt.NDArray[np.void]:
        """Return a STEP record, filled but for what differs from call to call."""
        weights, config = self._weights, self.config
        table = np.zeros((), STEP)
        for name in _DIMENSIONS:
            table[name] = getattr(config, name)
        table["layer_norm_epsilon"] = config.layer_norm_epsilon
        table["activation"] = ACTIVATION_FUNCTIONS.index(config.activation_function)
        table["yield_thread"] = yield_address()
        table["wte"], table["lm_head"] = weights.wte, weights.lm_head
        for name, record in self._buffers.records.items():
            table[name] = record
        addressed = dict(self._buffers.arrays)
        addressed["layers"] = weights.layers
        addressed["ln_f_weight"], addressed["ln_f_bias"] = weights.ln_f_weight, weights.ln_f_bias
        addressed["lm_head_bias"] = weights.lm_head_bias
        addressed["cosines"], addressed["sines"] = self._rotary.cosines, self._rotary.sines
        for name, array in addressed.items():
            table[name] = array.ctypes.data
        return table

    def _out_of_memory(self) -> UserError:
        """Return the error where the arrays for what a config claims cannot be had."""
        return UserError(
            f"{self.path} needs {cache_bytes(self.config) / 1e9:.1f} GB of memory for its "
            f"{self.n_positions} positions, which this machine does not give",
            "Use a smaller model, or end other programs.",
        )
