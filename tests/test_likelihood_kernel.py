"""Log-probabilities by spans of the vocabulary, against the softmax of whole rows in float64."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from oracle import log_probabilities as by_definition

from codegen_cli.contract.engine import LogProbabilities
from codegen_cli.engine_cpu.log_probabilities import log_probabilities
from codegen_cli.kernels.likelihood import summarize
from codegen_cli.kernels.step_table import SPAN, SUMMARY
from codegen_cli.machine import cpu
from quantize.description.formats import BAND, round_up

# Measured: 1.1e-7, over rows of 1 to 51200 logits with spreads of 0.001 to 40.
TOLERANCE = 2e-7

# The hash of what the kernel makes of random logits.
SCRIPT = """
import hashlib
from test_likelihood_kernel import random_logits, summaries_of
logits, targets = random_logits(1000, 3.0)
print(hashlib.sha256(summaries_of(logits, targets, [7])[0].tobytes()).hexdigest())
"""


@njit
def summarize_blocks(summaries, logits, bias, never, vocab_size, targets):
    for token in range(summaries.shape[0]):
        for span in range(summaries.shape[1]):
            first, end = span * SPAN, min((span + 1) * SPAN, vocab_size)
            summary, row, target = summaries[token, span], logits[token], targets[token]
            summarize(summary, row, bias, never, first, end, target)


def summaries_of(
    logits: np.ndarray, targets: Sequence[int], never_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Summaries [n, n_blocks], and ids as `log_probabilities` takes them."""
    n, vocab_size = logits.shape
    n_rows = round_up(vocab_size, BAND)
    bias, never = np.zeros((2, n_rows), np.float32)
    bias[:vocab_size] = np.arange(vocab_size) % 8  # small whole numbers: exact
    never[list(never_ids)] = -np.inf
    products = np.full((n, n_rows), 1e30, np.float32)  # what pads a row must not count
    products[:, :vocab_size] = logits - bias[:vocab_size]
    summaries = np.zeros((n, round_up(n_rows, SPAN) // SPAN), SUMMARY)
    summarize_blocks(summaries, products, bias, never, vocab_size, np.array(targets))
    assert np.array_equal(products[:, :vocab_size], logits, equal_nan=True)
    return summaries, never


def found(
    logits: np.ndarray, targets: Sequence[int], never_ids: Sequence[int] = ()
) -> LogProbabilities:
    summaries, never = summaries_of(logits, targets, never_ids)
    return log_probabilities(summaries, np.array(targets), never)


def random_logits(vocab_size: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits [200, vocab_size], multiples of 2**-10 that a bias changes exactly, and targets."""
    random = np.random.default_rng(vocab_size)
    logits = np.rint(random.normal(0, spread * 1024, (200, vocab_size))) / 1024
    return logits.astype(np.float32), random.integers(0, vocab_size, 200)


@pytest.mark.parametrize("spread", [0.001, 1, 3, 10, 40])
@pytest.mark.parametrize("vocab_size", [1, 16, 17, 256, 257, 300, 4096, 51200])
def test_each_is_within_the_stated_bound(vocab_size: int, spread: float) -> None:
    logits, targets = random_logits(vocab_size, spread)
    never = list(range(vocab_size // 2, vocab_size * 3 // 4))
    own, likeliest, of_likeliest = by_definition(logits, targets, never)
    ours = found(logits, targets, never)
    np.testing.assert_allclose(ours.of_targets, own, rtol=0, atol=TOLERANCE)
    assert np.array_equal(ours.likeliest_ids, likeliest)
    np.testing.assert_allclose(ours.of_likeliest, of_likeliest, rtol=0, atol=TOLERANCE)


def test_what_a_sure_model_gives_to_all_else_is_not_rounded_off() -> None:
    logits, _ = random_logits(1000, 1)
    logits[:, 300] = 25
    own, _, _ = by_definition(logits, [300] * 200, ())
    assert (own > -1e-7).all()
    np.testing.assert_allclose(found(logits, [300] * 200).of_targets, own, rtol=1e-6)


def test_of_equal_logits_the_first_id_is_the_likeliest() -> None:
    logits = np.zeros((6, 600), np.float32)
    for token, ids in enumerate([(0,), (31, 32), (15, 16), (300, 299), (255, 256, 599), (40, 56)]):
        logits[token, ids] = 2
    assert found(logits, [0] * 6).likeliest_ids.tolist() == [0, 31, 15, 299, 255, 40]
    assert found(logits[:1], [0], [0]).likeliest_ids.tolist() == [1]


BROKEN = {
    "NaN": {3: np.nan},
    "infinity": {3: np.inf},
    "all of a span infinite": dict.fromkeys(range(256), np.inf),
    "all of a span NaN": dict.fromkeys(range(256, 512), np.nan),
    "both infinities": {3: np.inf, 400: -np.inf},
    "some of minus infinity": dict.fromkeys(range(5, 20), -np.inf),
    "all of a span minus infinity": dict.fromkeys(range(256, 512), -np.inf),
    "all but one minus infinity": dict.fromkeys(range(1, 600), -np.inf),
    "all minus infinity": dict.fromkeys(range(600), -np.inf),
    "the largest float and the least": {3: 3.4e38, 4: -3.4e38},
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("never", [(), (0, 1), range(599)])
@pytest.mark.filterwarnings("ignore:invalid value")  # of the definition
def test_logits_that_are_no_numbers_end_as_by_definition(broken: str, never: Sequence[int]) -> None:
    logits, _ = random_logits(600, 1)
    logits = logits[:10]
    for token_id, value in BROKEN[broken].items():
        logits[:, token_id] = value
    targets = [0, 3, 5, 19, 20, 255, 256, 511, 512, 599]
    own, likeliest, of_likeliest = by_definition(logits, targets, never)
    ours = found(logits, targets, never)
    np.testing.assert_allclose(ours.of_targets, own, rtol=1e-7, atol=TOLERANCE)
    assert np.array_equal(ours.likeliest_ids, likeliest)
    np.testing.assert_allclose(ours.of_likeliest, of_likeliest, rtol=1e-7, atol=TOLERANCE)


def test_all_kernel_paths_give_the_same_bits() -> None:
    def summaries(path: str) -> bytes:
        return subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=Path(__file__).parent,
            env=os.environ | {"CODEGEN_KERNELS": path},
            capture_output=True,
            check=True,
        ).stdout

    assert len({summaries(path) for path in cpu.usable_kernel_paths()}) == 1
