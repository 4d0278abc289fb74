"""The ids so far -> a draft of those that come next: what followed where the text last read so.

Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): code
repeats its names, calls and indentation.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Match(NamedTuple):
    """The last n_ids ids also stand right before index `follower`, and nowhere later."""

    n_ids: int
    follower: int


class PromptLookup:
    """The ids of a text, with an index of its runs of 1 to `longest` ids."""

    def __init__(self, ids: Iterable[int], longest: int) -> None:
        self._ids: list[int] = []
        # One of each length: a run -> the index of what followed its latest occurrence.
        self._followers: list[dict[tuple[int, ...], int]] = [{} for _ in range(longest)]
        for token_id in ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        """Add the id that follows."""
        for n_ids, followers in enumerate(self._followers[: len(self._ids)], start=1):
            followers[tuple(self._ids[-n_ids:])] = len(self._ids)
        self._ids.append(token_id)

    def longest_match(self) -> Match | None:
        """Return the latest occurrence of the longest run that the text ends with, if any."""
        for n_ids in range(min(len(self._followers), len(self._ids)), 0, -1):
            follower = self._followers[n_ids - 1].get(tuple(self._ids[-n_ids:]))
            if follower is not None:
                return Match(n_ids, follower)
        return None

    def copy(self, begin: int, n_ids: int) -> list[int]:
        """Return n_ids ids from index `begin` on; past the end, the copy goes on with itself."""
        period = len(self._ids) - begin
        return [self._ids[begin + i % period] for i in range(n_ids)]
