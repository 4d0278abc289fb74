"""The ids that texts have read -> the cache with the longest common beginning of a new text."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from codegen_cli.contract.engine import Cache

Ids = Sequence[int]

LEAST_SHARED = 16
"""Ids of a beginning that are worth sharing: copying a block takes as long as reading some."""


class Known(NamedTuple):
    """A cache, and the ids whose keys and values it has: the first n_past count."""

    ids: Ids
    cache: Cache


def longest_beginning(ids: Ids, known: Iterable[Known]) -> tuple[Known | None, int]:
    """Return what has the longest beginning of these ids, but never all of them, and its length.

    None and 0 where nothing has one that is worth sharing.
    """
    best, most = None, LEAST_SHARED - 1
    for each in known:
        n = min(common_length(ids, each.ids), each.cache.n_past, len(ids) - 1)
        if n > most:
            best, most = each, n
    return best, most if best else 0


def common_length(a: Ids, b: Ids) -> int:
    """Return with how many equal ids two texts begin."""
    least, most = 0, min(len(a), len(b))
    while least < most:  # of slices, C compares thousands while Python would compare one id
        middle = (least + most + 1) // 2
        if a[least:middle] == b[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least
