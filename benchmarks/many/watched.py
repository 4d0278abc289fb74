"""An engine whose steps are timed: when each text got its next token, whoever forms the steps."""

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from codegen_cli.contract.engine import Cache, Engine, Part


class Watched:
    """An engine, and for each text the moments at which it got what it wanted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._caches: list[Cache] = []  # kept: no other may have an id that is a key here
        self.moments: dict[int, list[float]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forget(self) -> None:
        """Be as if nothing had been computed."""
        self._caches.clear()
        self.moments.clear()

    def forward(self, parts: Sequence[Part]) -> list[Any]:
        """Run a step, and note when it was done."""
        outcomes = self._engine.forward(parts)
        now = time.perf_counter()
        for part in parts:
            if part.n_wanted != 0:
                if id(part.cache) not in self.moments:
                    self._caches.append(part.cache)
                self.moments[id(part.cache)].append(now)
        return outcomes

    def tokens_per_second(self) -> float:
        """Return what all texts together got while each of them was being continued."""
        start = max(each[0] for each in self.moments.values())
        end = min(each[-1] for each in self.moments.values())
        if end <= start:
            return float("nan")  # they ran one after another
        n_tokens = sum(start < moment <= end for each in self.moments.values() for moment in each)
        return n_tokens / (end - start)


def gaps(moments: Sequence[float]) -> list[float]:
    """Return the seconds between one token and the next."""
    return [later - earlier for earlier, later in pairwise(moments)]
