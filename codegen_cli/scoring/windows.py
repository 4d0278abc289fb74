"""A text of any length -> overlapping windows of the model's context that take each id once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codegen_cli.contract.engine import Cache, Part

Progress = tuple[int, int]
"""The tokens done, and all tokens."""


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


def window_parts(
    n_ids: int, cache: Cache, n_read: int, part_of: Callable[[int, int, int], Part]
) -> Iterator[tuple[int, Part]]:
    """Yield (index, part) for a stream to ask for: of the last n_wanted ids, each id once.

    index    of the first id of which something is wanted
    n_read   most ids of a part that wants something
    part_of  (start, end, n_wanted) -> the part that appends ids [start, end) to the cache

    Each part is asked for before the next is yielded: the cache begins anew for each window.
    """
    for window in windows(n_ids, cache.n_positions):
        cache.n_past = 0
        if window.first_new > window.start:
            yield window.first_new, part_of(window.start, window.first_new, 0)
        for at in range(window.first_new, window.end, n_read):
            end = min(at + n_read, window.end)
            yield at, part_of(at, end, end - at)
