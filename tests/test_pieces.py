"""Pieces of work: each is taken once, by one thread, whatever the others have taken."""

import numpy as np
import pytest
from numba import njit

from codegen_cli.kernels.pieces import Work, take
from codegen_cli.kernels.step_table import COUNTERS, LINE_SLOTS, STEP


@njit
def take_once(steps, thread, counter, n, n_in_piece):
    return take(steps[0], thread, Work(counter, n, n_in_piece))


@pytest.mark.parametrize(("n", "n_in_piece"), [(1, 1), (7, 2), (64, 1), (10, 100)])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_every_piece_is_taken_once_whoever_asks(n, n_in_piece, n_threads):
    steps = np.zeros(1, STEP)
    counters = np.zeros((COUNTERS + 1, n_threads, LINE_SLOTS), np.int64)
    steps["n_threads"], steps["n_layer"], steps["counters"] = n_threads, 1, counters.ctypes.data
    random, taken = np.random.default_rng(n), []
    idle = set()
    while len(idle) < n_threads:
        thread = int(random.integers(n_threads))
        first, end = take_once(steps, thread, 2, n, n_in_piece)
        if first == end:
            idle.add(thread)
        else:
            assert thread not in idle
            assert end - first == n_in_piece or end == n
            taken += range(first, end)
    assert sorted(taken) == list(range(n))
    assert not counters[[0, 1, 3, 4]].any()  # other work is counted elsewhere


def test_a_thread_takes_its_own_neighbours_in_order_and_then_helps():
    steps = np.zeros(1, STEP)
    counters = np.zeros((COUNTERS + 1, 2, LINE_SLOTS), np.int64)
    steps["n_threads"], steps["n_layer"], steps["counters"] = 2, 1, counters.ctypes.data
    pieces = [take_once(steps, 1, 0, 12, 2) for _ in range(7)]
    assert pieces == [(6, 8), (8, 10), (10, 12), (0, 2), (2, 4), (4, 6), (0, 0)]
