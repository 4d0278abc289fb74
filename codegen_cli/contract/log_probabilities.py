"""Logits -> log-probabilities of given ids and of the likeliest: what any engine can stand on."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Float32, LogProbabilities


def log_probabilities(
    logits: Float32, targets: Sequence[int] | npt.NDArray[np.integer], never: Collection[int]
) -> LogProbabilities:
    """Return ln p of each row's target, the likeliest ids but for those of `never`, their ln p.

    logits  [n, vocab_size]
    targets [n] ids
    """
    rows = np.arange(len(logits))
    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a broken model's infinities become NaN
        values -= values.max(axis=1, keepdims=True)
        values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    own = values[rows, np.asarray(targets, np.int64)]
    values[:, np.fromiter(never, np.int64, len(never))] = -np.inf
    likeliest = values.argmax(axis=1)
    return LogProbabilities(own, likeliest, values[rows, likeliest])
