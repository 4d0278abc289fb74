"""A packed file made ready to run: ids and a cache in, logits or hidden states out."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.deadline import Deadline
from codegen_cli.engine_cpu.buffers import CHUNK, Buffers, RotaryTables
from codegen_cli.engine_cpu.compile import kernel_cache
from codegen_cli.engine_cpu.compile.kernel_cache import OnDelay
from codegen_cli.engine_cpu.kv_cache import KVCache, cache_bytes
from codegen_cli.engine_cpu.threads import FillTable, Step, Team, run_interruptibly, yield_address
from codegen_cli.engine_cpu.weights import Weights
from codegen_cli.kernels.step_table import STEP
from codegen_cli.machine.cores import usable_cores
from quantize.description.config import ACTIVATION_FUNCTIONS
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile, read_packed_file


def load_model(
    path: Path,
    n_threads: int | None = None,
    on_delay: OnDelay = lambda delay: None,
    deadline: Deadline = None,
) -> "Model":
    """Return the model of a packed file, with kernels compiled and threads started.

    n_threads  None: one for each core that the process may use
    on_delay   told that the kernels have to be compiled first, which takes seconds

    Raises UserError for a file that is no valid packed file, or needs more memory than there is,
    TimeUp.
    """
    return prepare_model(read_packed_file(path), n_threads, on_delay, deadline)


def prepare_model(
    packed: PackedFile,
    n_threads: int | None = None,
    on_delay: OnDelay = lambda delay: None,
    deadline: Deadline = None,
) -> "Model":
    """Return the model of a packed file that has been read; all else as `load_model`."""
    step = run_interruptibly(lambda: kernel_cache.load_step(on_delay), deadline)
    try:
        return Model(packed, step, n_threads or usable_cores().n_threads)
    except MemoryError as error:
        raise _out_of_memory(packed) from error


class Model:
    """The forward pass of one packed file on a team of threads.

    Several threads may call at once, each with a cache of its own: they take turns, at most CHUNK
    ids a turn.
    """

    def __init__(self, packed: PackedFile, step: Step, n_threads: int) -> None:
        self.packed = packed
        self.config = packed.config
        self.n_positions = packed.config.n_positions
        self._weights = Weights(packed)
        self._buffers = Buffers(self.config, n_threads, min(CHUNK, self.n_positions))
        self._rotary = RotaryTables(self.config)
        self._table = self._new_table(n_threads)
        self._team = Team(n_threads, step)
        # For a model that nobody closes; at exit too, before the weights are unmapped.
        weakref.finalize(self, self._team.close)

    def new_cache(self, n_positions: int | None = None) -> KVCache:
        """Return an empty cache for so many ids (None: all that the model can see).

        ValueError for more than the model can see, UserError where memory is short.
        """
        if n_positions is not None and not 0 < n_positions <= self.n_positions:
            raise ValueError(f"a cache for {n_positions} positions, need 1 to {self.n_positions}")
        try:
            return KVCache(self.config, n_positions)
        except MemoryError as error:
            raise _out_of_memory(self.packed) from error

    def forward(
        self,
        ids: Sequence[int],
        cache: KVCache,
        n_logits: int | None = None,
        deadline: Deadline = None,
    ) -> npt.NDArray[np.float32]:
        """Append ids to the cache; return the logits of the last n_logits of them (None: all).

        ids     [n_tokens] in [0, vocab_size); n_past + n_tokens must not exceed the cache's
        result  [n_logits, vocab_size] float32

        The same ids give the same bits whether they come one by one, in parts or at once. Raises
        TimeUp and KeyboardInterrupt within one layer's time, with cache.n_past unchanged, and
        ValueError for ids that do not fit or once the model is closed.
        """
        rows = int(self._table["lm_head"]["n_blocks"]) * 16
        logits = self._run("logits", rows, ids, cache, n_logits, deadline)
        return logits[:, : self.config.vocab_size]

    def hidden_states(
        self,
        ids: Sequence[int],
        cache: KVCache,
        n_states: int | None = None,
        deadline: Deadline = None,
    ) -> npt.NDArray[np.float32]:
        """Append ids to the cache; return what ln_f gives for the last n_states of them.

        result  [n_states, n_embd] float32

        As `forward` in all else; lm_head is not computed.
        """
        n_padded = int(self._table["normed"]["n"])
        states = self._run("states", n_padded, ids, cache, n_states, deadline)
        return states[:, : self.config.n_embd]

    def close(self) -> None:
        """End the threads; the model is of no use afterwards."""
        self._team.close()

    def _run(
        self,
        output: Literal["logits", "states"],
        n_columns: int,
        ids: Sequence[int],
        cache: KVCache,
        n_wanted: int | None,
        deadline: Deadline,
    ) -> npt.NDArray[np.float32]:
        """Append ids to the cache; return [n_wanted, n_columns] of an output of the step."""
        tokens = self._check_ids(ids)
        n_wanted = len(tokens) if n_wanted is None else n_wanted
        self._check_room(len(tokens), cache, n_wanted)
        wanted = np.empty((n_wanted, n_columns), np.float32)
        first_wanted = len(tokens) - n_wanted
        for start in range(0, len(tokens), self._buffers.max_tokens):
            chunk = tokens[start : start + self._buffers.max_tokens]
            first = max(first_wanted - start, 0)
            rows = wanted[max(start - first_wanted, 0) :][: max(len(chunk) - first, 0)]
            fill_table = self._step_filler(chunk, cache, cache.n_past + start, output, rows)
            self._team.run(fill_table, deadline)
        cache.n_past += len(tokens)
        return wanted

    def _check_ids(self, ids: Sequence[int]) -> npt.NDArray[np.integer]:
        """The kernels check nothing: an id or a position out of range would read foreign memory."""
        tokens = np.asarray(ids)
        if tokens.ndim != 1 or len(tokens) == 0:
            raise ValueError(f"ids must be a non-empty sequence, not of shape {tokens.shape}")
        if tokens.dtype.kind not in "iu":
            raise ValueError(f"ids must be whole numbers, not {tokens.dtype}")
        values = tokens.tolist()  # of one id, NumPy's own minimum takes ten times as long
        if min(values) < 0 or max(values) >= self.config.vocab_size:
            raise ValueError(f"ids must lie in [0, {self.config.vocab_size})")
        return tokens

    def _check_room(self, n_tokens: int, cache: KVCache, n_wanted: int) -> None:
        if not 0 <= n_wanted <= n_tokens:
            raise ValueError(f"{n_wanted} results are wanted, of {n_tokens} ids")
        if cache.config != self.config:
            raise ValueError("the cache was made for another model")
        if cache.n_past + n_tokens > cache.n_positions:
            raise ValueError(
                f"{cache.n_past} + {n_tokens} ids exceed n_positions {cache.n_positions}"
            )

    def _step_filler(
        self,
        ids: npt.NDArray[np.integer],
        cache: KVCache,
        n_past: int,
        output: Literal["logits", "states"],
        rows: npt.NDArray[np.float32],
    ) -> FillTable:
        """Return what prepares a step once all shared buffers are its own; it keeps rows alive."""

        def fill_table(cancel: int, n_threads: int) -> int:
            table, arrays = self._table, self._buffers.arrays
            self._rotary.fill(n_past + len(ids))
            arrays["ids"][: len(ids)] = ids
            arrays["counters"].fill(0)
            arrays["barrier"].fill(0)
            table["n_threads"] = n_threads
            table["n_tokens"], table["n_past"], table["n_wanted"] = len(ids), n_past, len(rows)
            table["keys"], table["values"] = cache.keys.ctypes.data, cache.values.ctypes.data
            table["capacity"] = cache.capacity
            table["cancel"] = cancel
            table["states"], table["logits"] = table["normed"]["values"], 0
            table[output] = rows.ctypes.data
            return table.ctypes.data

        return fill_table

    def _new_table(self, n_threads: int) -> npt.NDArray[np.void]:
        """Return a STEP record, filled but for what differs from call to call."""
        weights, config = self._weights, self.config
        table = np.zeros((), STEP)
        for name in ("n_layer", "n_head", "head_dim", "n_embd", "n_inner", "rotary_dim"):
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


def _out_of_memory(packed: PackedFile) -> UserError:
    """Return the error where the arrays for what a config claims cannot be had."""
    return UserError(
        f"{packed.path} needs {cache_bytes(packed.config) / 1e9:.1f} GB of memory for its "
        f"{packed.config.n_positions} positions, which this machine does not give",
        "Use a smaller model, or end other programs.",
    )
