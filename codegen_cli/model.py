"""A packed file made ready to run: ids and a cache in, logits out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codegen_cli import cpu, kernel_cache
from codegen_cli.buffers import Buffers, rotary_tables
from codegen_cli.deadline import Deadline
from codegen_cli.kernels.step_table import STEP
from codegen_cli.kv_cache import KVCache
from codegen_cli.threads import Step, Team, run_interruptibly, yield_address
from codegen_cli.weights import Weights
from quantize.packed_file import PackedFile, read_packed_file

# Ids a step takes at once. Each block of weights is read once per chunk; more ids would overflow
# the first-level cache with their activations, fewer would read the weights more often.
CHUNK = 64


def load_model(
    path: Path,
    n_threads: int | None = None,
    on_compile: Callable[[], None] = lambda: None,
    deadline: Deadline = None,
) -> "Model":
    """Return the model of a packed file, with kernels compiled and threads started.

    n_threads   None: as many as the process may use cores
    on_compile  called if the kernels have to be compiled first, which takes seconds

    Raises UserError for a file that is no valid packed file, TimeUp.
    """
    packed = read_packed_file(path)
    step = run_interruptibly(lambda: kernel_cache.load_step(on_compile), deadline)
    return Model(packed, step, n_threads or cpu.usable_cores())


class Model:
    """The forward pass of one packed file on a team of threads; not for several callers at once."""

    def __init__(self, packed: PackedFile, step: Step, n_threads: int) -> None:
        self.packed = packed
        self.config = packed.config
        self.n_positions = packed.config.n_positions
        self.deadline: Deadline = None
        self._weights = Weights(packed)
        self._buffers = Buffers(self.config, n_threads, min(CHUNK, self.n_positions))
        self._rotary = rotary_tables(self.config)
        self._table = self._new_table(n_threads)
        self._team = Team(n_threads, step)

    def new_cache(self) -> KVCache:
        """Return an empty cache for up to n_positions ids."""
        return KVCache(self.config)

    def forward(
        self, ids: Sequence[int], cache: KVCache, n_logits: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Append ids to the cache; return the logits of the last n_logits of them (None: all).

        ids     [n_tokens] in [0, vocab_size); n_past + n_tokens must not exceed n_positions
        result  [n_logits, vocab_size] float32

        The same ids give the same bits whether they come one by one, in parts or at once. Raises
        TimeUp and KeyboardInterrupt within one layer's time, with cache.n_past unchanged.
        """
        tokens = np.asarray(ids, np.int64)
        n_logits = len(tokens) if n_logits is None else n_logits
        self._check(tokens, cache, n_logits)
        rows = int(self._table["lm_head"]["n_blocks"]) * 16
        logits = np.empty((n_logits, rows), np.float32)
        first_with_logits = len(tokens) - n_logits
        for start in range(0, len(tokens), self._buffers.max_tokens):
            chunk = tokens[start : start + self._buffers.max_tokens]
            first = max(first_with_logits - start, 0)
            wanted = logits[max(start - first_with_logits, 0) :][: max(len(chunk) - first, 0)]
            self._run_step(chunk, cache, cache.n_past + start, wanted)
        cache.n_past += len(tokens)
        return logits[:, : self.config.vocab_size]

    def close(self) -> None:
        """End the threads; the model is of no use afterwards."""
        self._team.close()

    def _check(self, tokens: npt.NDArray[np.int64], cache: KVCache, n_logits: int) -> None:
        """The kernels check nothing: an id or a position out of range would read foreign memory."""
        if tokens.ndim != 1 or len(tokens) == 0:
            raise ValueError(f"ids must be a non-empty sequence, not of shape {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise ValueError(f"ids must lie in [0, {self.config.vocab_size})")
        if not 0 <= n_logits <= len(tokens):
            raise ValueError(f"n_logits is {n_logits}, of {len(tokens)} ids")
        if cache.config != self.config:
            raise ValueError("the cache was made for another model")
        if cache.n_past + len(tokens) > self.n_positions:
            raise ValueError(
                f"{cache.n_past} + {len(tokens)} ids exceed n_positions {self.n_positions}"
            )

    def _run_step(
        self,
        ids: npt.NDArray[np.int64],
        cache: KVCache,
        n_past: int,
        logits: npt.NDArray[np.float32],
    ) -> None:
        self._team.wait_until_idle()  # a second Ctrl-C may have left the last step running
        table, arrays = self._table, self._buffers.arrays
        arrays["ids"][: len(ids)] = ids
        arrays["counters"].fill(0)
        arrays["barrier"].fill(0)
        table["n_tokens"], table["n_past"], table["n_logits"] = len(ids), n_past, len(logits)
        table["keys"], table["values"] = cache.keys.ctypes.data, cache.values.ctypes.data
        table["logits"] = logits.ctypes.data
        self._team.run(table.ctypes.data, self._buffers.cancel, self.deadline)

    def _new_table(self, n_threads: int) -> npt.NDArray[np.void]:
        """Return a STEP record, filled but for what differs from call to call."""
        weights, config = self._weights, self.config
        table = np.zeros((), STEP)
        for name in ("n_layer", "n_head", "head_dim", "n_embd", "n_inner", "rotary_dim"):
            table[name] = getattr(config, name)
        table["layer_norm_epsilon"] = config.layer_norm_epsilon
        table["n_threads"] = n_threads
        table["capacity"] = len(self._rotary[0])
        table["yield_thread"] = yield_address()
        table["wte"], table["lm_head"] = weights.wte, weights.lm_head
        for name, record in self._buffers.records.items():
            table[name] = record
        addressed = dict(self._buffers.arrays)
        addressed["layers"] = weights.layers
        addressed["ln_f_weight"], addressed["ln_f_bias"] = weights.ln_f_weight, weights.ln_f_bias
        addressed["lm_head_bias"] = weights.lm_head_bias
        addressed["cosines"], addressed["sines"] = self._rotary
        for name, array in addressed.items():
            table[name] = array.ctypes.data
        return table
