"""What a step is to make -> the arrays that it writes to, and the results they become."""

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

import numpy as np

from codegen_cli.contract.engine import Float32, Result
from codegen_cli.engine_cpu.log_probabilities import log_probabilities
from codegen_cli.engine_cpu.step_filling import Arrays, StepTable
from codegen_cli.engine_cpu.step_plan import StepPlan
from codegen_cli.kernels.step_table import SPAN, SUMMARY
from quantize.description.config import ModelConfig
from quantize.description.formats import round_up


class Output(NamedTuple):
    """Where a step writes, and what that is for its parts once it has ended.

    result  gives a row for each id of which something is wanted; None: nothing is wanted of any
    """

    arrays: Arrays
    result: Callable[[], Result | None]


def new_output(plan: StepPlan, table: StepTable, config: ModelConfig) -> Output:
    """Return room for what a step makes."""
    n = plan.n_wanted
    if plan.kind is None:
        return Output({}, lambda: None)
    if plan.kind.wanted == "log_probabilities":
        return _summaries(plan, table.n_rows, plan.kind.never)
    if plan.kind.wanted == "hidden_states":
        states = np.empty((n, table.n_embd), np.float32)
        return Output({"states": states}, lambda: states[:, : config.n_embd])
    logits = np.empty((n, table.n_rows), np.float32)
    return Output({"logits": logits}, lambda: logits[:, : config.vocab_size])


def _summaries(plan: StepPlan, n_rows: int, never: Collection[int]) -> Output:
    """A step sums up its logits, of which no row is ever whole."""
    targets, forbidden = plan.targets, _as_row(never, n_rows)
    summaries = np.empty((len(targets), round_up(n_rows, SPAN) // SPAN), SUMMARY)
    arrays = {"summaries": summaries, "targets": targets, "never": forbidden}
    return Output(arrays, partial(log_probabilities, summaries, targets, forbidden))


def _as_row(never: Collection[int], n_rows: int) -> Float32:
    row = np.zeros(n_rows, np.float32)
    row[np.fromiter(never, np.int64, len(never))] = -np.inf
    return row
