"""What a step computes -> its STEP record, in buffers that all steps of an engine share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from codegen_cli.engine_cpu.buffers import CHUNK, Buffers, RotaryTables, n_chains
from codegen_cli.engine_cpu.kv_cache import capacity_of
from codegen_cli.engine_cpu.step_plan import StepPlan
from codegen_cli.engine_cpu.threads import yield_address
from codegen_cli.engine_cpu.weights import Weights
from codegen_cli.kernels.step_table import STEP
from quantize.description.config import ACTIVATION_FUNCTIONS, ModelConfig
from quantize.description.formats import BAND
from quantize.packed.packed_file import PackedFile

# What a step is told of the config, as config.json calls it.
_DIMENSIONS = ("n_layer", "n_head", "head_dim", "n_embd", "n_inner", "rotary_dim", "vocab_size")

Arrays = Mapping[str, npt.NDArray[Any]]
"""What a step reads or writes for its caller, by names of step_table.STEP."""


class StepTable:
    """The record through which kernels reach a model and the buffers of a step; MemoryError.

    most_ids  that a step takes
    n_embd    padded, as rows of states are
    n_rows    of lm_head, whose bands of 16 may reach beyond vocab_size
    """

    def __init__(self, packed: PackedFile, n_threads: int) -> None:
        config = packed.config
        self.most_ids = min(CHUNK, config.n_positions)
        self._weights = Weights(packed)
        self._buffers = Buffers(config, n_threads, self.most_ids)
        self._rotary = RotaryTables(config)
        self._table = self._new_table(config)
        self.n_embd = int(self._table["normed"]["n"])
        self.n_rows = int(self._table["lm_head"]["n_bands"]) * BAND

    def fill(self, plan: StepPlan, arrays: Arrays, cancel: int, n_threads: int) -> int:
        """Prepare a step, once all buffers are its own; return the record's address.

        arrays  what it makes and needs for that: logits, or summaries, targets and never, or states
        cancel  address of an int64 that ends it early

        Plan and arrays have to be kept until the step has ended.
        """
        table, buffers = self._table, self._buffers.arrays
        self._fill_texts(plan, buffers["texts"], buffers["ids"])
        buffers["counters"].fill(0)
        buffers["barrier"].fill(0)
        wanted = plan.wanted_ids
        buffers["wanted"][: len(wanted)] = wanted
        table["n_threads"] = n_threads
        table["n_texts"], table["n_wanted"] = len(plan.taken), len(wanted)
        table["cancel"] = cancel
        table["states"] = table["normed"]["values"]
        table["logits"] = table["summaries"] = 0
        for name, array in arrays.items():
            table[name] = array.ctypes.data
        return table.ctypes.data

    def _fill_texts(self, plan: StepPlan, texts: npt.NDArray[Any], ids: npt.NDArray[Any]) -> None:
        first = 0
        for index, (reading, chunk) in enumerate(plan.taken):
            n_tokens = len(chunk.tokens)
            self._rotary.fill(chunk.n_past + n_tokens)
            ids[first : first + n_tokens] = chunk.tokens
            blocks = reading.cache.addresses.ctypes.data
            texts[index] = (first, n_tokens, chunk.n_past, blocks)
            first += n_tokens
        self._table["n_tokens"] = first

    def _new_table(self, config: ModelConfig) -> npt.NDArray[np.void]:
        """Return a STEP record, filled but for what differs from step to step."""
        weights = self._weights
        table = np.zeros((), STEP)
        for name in _DIMENSIONS:
            table[name] = getattr(config, name)
        table["capacity"], table["n_chains"] = capacity_of(config), n_chains(config)
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
