"""Steps that were taken -> what steps of so many ids take, and what one more id costs.

A step reads all weights once, whatever it computes, and then some more for each id: little where
memory is the limit, much where arithmetic is. What else runs on the machine disturbs some steps, so
medians of the last few count.
"""

from collections import deque
from collections.abc import Collection

# What one more id costs, as a share of a step with a single id, until it has been measured.
_USUAL_COST = 0.2

_REMEMBERED = 5  # steps of one size, and costs
_STEPS_KEPT = 512  # a size that was not seen for so long is forgotten: texts have grown since

# Steps with this many ids more than the fewest tell what drafts cost, larger ones what prompts do.
_FEW = 16


class StepCosts:
    """What was learned of an engine's steps: seconds = of the smallest + more ids * each."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._last_seen: dict[int, int] = {}
        self._n_steps = 0
        self._draft_costs: deque[float] = deque(maxlen=_REMEMBERED)
        self._prompt_costs: deque[float] = deque(maxlen=_REMEMBERED)

    def learn(self, n_ids: int, seconds: float) -> None:
        """Take in a step of so many ids."""
        if self._seconds and n_ids < self._fewest():
            self._forget_costs()  # the difference of two large steps says little of what is small
        self._n_steps += 1
        self._last_seen[n_ids] = self._n_steps
        if n_ids in self._seconds:
            self._seconds[n_ids].append(seconds)
        else:  # never empty, wherever Ctrl-C comes
            self._seconds[n_ids] = deque([seconds], maxlen=_REMEMBERED)
        fewest = self._fewest()
        if n_ids > fewest:
            more = n_ids - fewest
            each = max(0.0, seconds - _middle(self._seconds[fewest])) / more
            (self._draft_costs if more <= _FEW else self._prompt_costs).append(each)

    def id_cost(self, n_texts: int) -> float | None:
        """Return what an Answer says of one more id beside one each of so many texts.

        One more id that holds with probability p adds p to n_texts ids, and the seconds of an id to
        those of the step: it pays where p is more than this.
        """
        if not self._seconds or self._fewest() > n_texts:
            return None
        step = self.seconds(n_texts)
        if step <= 0:  # a coarse clock may have seen no time pass
            return _USUAL_COST
        return n_texts * self._each(self._draft_costs) / step

    def seconds(self, n_ids: int) -> float:
        """Return what a step of so many ids takes; 0 where nothing was learned."""
        if not self._seconds:
            return 0.0
        fewest = self._fewest()
        known, more = _middle(self._seconds[fewest]), max(0, n_ids - fewest)
        costs = self._draft_costs if more <= _FEW or not self._prompt_costs else self._prompt_costs
        return known + more * self._each(costs)

    def _each(self, costs: Collection[float]) -> float:
        if costs:
            return _middle(costs)
        fewest = self._fewest()
        return _USUAL_COST * _middle(self._seconds[fewest]) / (1 + _USUAL_COST * (fewest - 1))

    def _fewest(self) -> int:
        """Return the fewest ids of a step that was seen not too long ago."""
        fewest = min(self._seconds)
        while self._n_steps - self._last_seen[fewest] > _STEPS_KEPT and len(self._seconds) > 1:
            del self._seconds[fewest], self._last_seen[fewest]
            self._forget_costs()
            fewest = min(self._seconds)
        return fewest

    def _forget_costs(self) -> None:
        self._draft_costs.clear()
        self._prompt_costs.clear()


def _middle(values: Collection[float]) -> float:
    """Return the median, of two the larger; importing the statistics module takes 5 ms."""
    return sorted(values)[len(values) // 2]
