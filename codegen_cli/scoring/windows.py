"""A text of any length -> overlapping windows of the model's context that take each id once."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Ids [start, end) are read together; those from `first_new` on were in no window before."""

    start: int
    first_new: int
    end: int


def stride_of(n_positions: int) -> int:
    """Return by how many ids each window moves on: half a context."""
    return max(1, n_positions // 2)


def windows(n_ids: int, n_positions: int) -> Iterator[Window]:
    """Yield windows of at most n_positions ids whose new parts are [0, n_ids), in order.

    Every id has all ids before it in its window, or at least half a context of them.
    """
    stride = stride_of(n_positions)
    start = first_new = 0
    while first_new < n_ids:
        end = min(start + n_positions, n_ids)
        yield Window(start, first_new, end)
        start, first_new = start + stride, end
