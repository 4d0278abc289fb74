"""A part that a stream asked for -> chunks for an engine to read, and the whole result."""

from collections.abc import Sequence

import numpy as np

from codegen_cli.contract.engine import LogProbabilities, Part, Result
from codegen_cli.contract.part_checks import checked_n_wanted


class AskedPart:
    """How far a part has been read, in chunks of its ids.

    What counts as read is what was taken: where a chunk's result was lost, the next one is the same
    again. Raises TypeError or AttributeError for what is no part.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self._n_ids = len(part.ids)
        self._n_past = part.cache.n_past
        self._taken: list[tuple[int, Result, float]] = []  # ids, what was wanted of them, seconds

    @property
    def n_left(self) -> int:
        """Ids that are still to be read."""
        return self._n_ids - self._n_done

    @property
    def is_read(self) -> bool:
        """Whether all of them have been."""
        return bool(self._taken) and self.n_left == 0

    @property
    def seconds(self) -> float:
        """What the steps took so far."""
        return sum(seconds for _, _, seconds in self._taken)

    def chunk(self, n: int) -> Part:
        """Return a part of the next n ids, or of all that are left; the cache ends before them.

        Raises ValueError for a part that does not fit, where an engine could not see that.
        """
        part, n_ids, start = self.part, self._n_ids, self._n_done
        end = min(start + n, n_ids)
        part.cache.n_past = self._n_past + start
        if start == 0 and end == n_ids:
            return part
        first = n_ids - checked_n_wanted(part)  # that is wanted
        own = range(max(start, first), max(end, first))
        return part._replace(
            ids=part.ids[start:end],
            n_wanted=len(own),
            targets=part.targets[own.start - first : own.stop - first] if own else (),
        )

    def take(self, n_ids: int, result: Result, seconds: float) -> None:
        """Keep a chunk's result."""
        self._taken.append((n_ids, result, seconds))

    def forget(self) -> None:
        """Have the cache as it was before the first chunk."""
        self.part.cache.n_past = self._n_past

    def result(self) -> Result:
        """Return what the part wanted, once all has been read."""
        results = [result for _, result, _ in self._taken]
        return results[0] if len(results) == 1 else _joined(results)

    @property
    def _n_done(self) -> int:
        return sum(n_ids for n_ids, _, _ in self._taken)


def _joined(results: Sequence[Result]) -> Result:
    if isinstance(results[0], LogProbabilities):
        columns = zip(*results, strict=True)
        return LogProbabilities(*map(np.concatenate, columns))
    return np.concatenate(results)
