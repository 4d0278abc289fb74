"""A part that a stream asked for -> chunks for an engine to read, and the whole result."""

from collections.abc import Sequence

import numpy as np

from codegen_cli.contract.engine import LogProbabilities, Part, Result


class AskedPart:
    """How far a part has been read, in chunks of its ids.

    seconds  that the steps took so far

    The cache counts each chunk in. Where one fails, the cache is as it was before the first.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.seconds = 0.0
        self._n_past = part.cache.n_past
        self._n_done = 0
        self._results: list[Result] = []

    @property
    def n_left(self) -> int:
        """Ids that are still to be read."""
        return len(self.part.ids) - self._n_done

    def chunk(self, n: int) -> Part:
        """Return a part of the next n ids, or of all that are left."""
        part, start = self.part, self._n_done
        n_ids, end = len(part.ids), min(self._n_done + n, len(part.ids))
        if start == 0 and end == n_ids:
            return part
        n_wanted = n_ids if part.n_wanted is None else part.n_wanted
        first = n_ids - n_wanted  # that is wanted
        own = range(max(start, first), max(end, first))
        return part._replace(
            ids=part.ids[start:end],
            n_wanted=len(own),
            targets=part.targets[own.start - first : own.stop - first] if own else (),
        )

    def take(self, n_ids: int, result: Result, seconds: float) -> bool:
        """Keep a chunk's result; tell whether all has been read."""
        self._n_done += n_ids
        self.seconds += seconds
        self._results.append(result)
        return self.n_left == 0

    def forget(self) -> None:
        """Have the cache as it was."""
        self.part.cache.n_past = self._n_past

    def result(self) -> Result:
        """Return what the part wanted, once all has been read."""
        return self._results[0] if len(self._results) == 1 else _joined(self._results)


def _joined(results: Sequence[Result]) -> Result:
    if isinstance(results[0], LogProbabilities):
        columns = zip(*results, strict=True)
        return LogProbabilities(*map(np.concatenate, columns))
    return np.concatenate(results)
