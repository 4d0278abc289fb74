"""What a step summed up of each span of the vocabulary -> log-probabilities."""

from typing import Any

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Float32, LogProbabilities
from codegen_cli.kernels.step_table import SPAN


def log_probabilities(
    summaries: npt.NDArray[Any], targets: npt.NDArray[np.int64], never: Float32
) -> LogProbabilities:
    """Return ln p of each row's target, the likeliest ids and their ln p.

    summaries [n, n_spans] SUMMARY
    targets   [n] ids
    never     [>= vocab_size] -infinity for ids that cannot be the likeliest, else 0

    The sums of the spans, which are float32, are added in float64: ln p is within 1.1e-7 of what
    float64 gives throughout, as measured in tests/test_likelihood_kernel.py. A row in which a logit
    is NaN or infinity, or all are -infinity, has no probabilities: they are NaN.
    """
    rows = np.arange(len(summaries))
    largest = summaries["largest"].astype(np.float64)
    with np.errstate(invalid="ignore"):  # a broken model's infinities become NaN
        most = largest.max(axis=1)
        sums = summaries["n_largest"].astype(np.float64) + summaries["sum"]
        sums = (sums * np.exp(largest - most[:, None])).sum(axis=1)
        log_sums = np.log(sums)
        own = summaries["target"][rows, targets // SPAN] - most - log_sums
        span = summaries["likeliest"].argmax(axis=1)
        of_likeliest = summaries["likeliest"][rows, span] - most - log_sums
    ids = np.where(np.isnan(sums), never.argmax(), summaries["likeliest_id"][rows, span])
    return LogProbabilities(own, ids, of_likeliest)
