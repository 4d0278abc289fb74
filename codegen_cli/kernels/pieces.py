"""Work that the threads of a step share -> the pieces that one of them takes, one after another."""

from collections import namedtuple

from numba import carray, int64, njit

from codegen_cli.kernels.step_table import BARRIER_SLOTS, COUNTERS, LINE_SLOTS
from codegen_cli.kernels.threading_primitives import atomic_add, pointer_to, wait_for_all

# Work that threads share: `n` neighbours, taken in pieces of `n_in_piece`.
#   counter  which of the step's counters tells what is taken
Work = namedtuple("Work", "counter n n_in_piece")

_compile = njit(nogil=True, error_model="numpy")


@_compile
def ceil_div(a, b):
    """a / b, rounded up."""
    return (a + b - 1) // b


@_compile
def take(step, thread, work):
    """Return (first, end) of the neighbours that are now this thread's piece, or (0, 0) at last.

    step  a STEP record
    work  Work

    A thread has a share of neighbouring pieces, so that what it asks memory for ahead is what it
    reads next; when that is done it helps the others with theirs.
    """
    n_lines = (COUNTERS * step.n_layer + 1) * step.n_threads
    slots = carray(pointer_to(step.counters, int64), (n_lines * LINE_SLOTS,))
    n_pieces = ceil_div(work.n, work.n_in_piece)
    for turn in range(step.n_threads):
        owner = (thread + turn) % step.n_threads
        first_piece = n_pieces * owner // step.n_threads
        end_piece = n_pieces * (owner + 1) // step.n_threads
        line = work.counter * step.n_threads + owner
        piece = first_piece + atomic_add(slots, line * LINE_SLOTS, 1)
        if piece < end_piece:
            first = piece * work.n_in_piece
            return first, min(first + work.n_in_piece, work.n)
    return 0, 0


@_compile
def wait(step):
    """Wait for the other threads; say whether the step is cancelled."""
    barrier = carray(pointer_to(step.barrier, int64), (BARRIER_SLOTS,))
    cancel = carray(pointer_to(step.cancel, int64), (1,))
    return wait_for_all(barrier, step.n_threads, cancel, step.yield_thread)
