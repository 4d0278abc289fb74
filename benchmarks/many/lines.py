"""Values of each round -> a line of the table: the median, the range, and the goal it reaches."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Line:
    """A ratio that is measured once a round; must, aim: the project's goals.

    at_most  whether values below the goals are good
    """

    title: str
    must: float | None = None
    aim: float | None = None
    at_most: bool = False
    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Count a round's value, and show it."""
        self.values.append(value)
        print(f"    {self.title}: {value:.3g}", flush=True)

    @property
    def verdict(self) -> str:
        """Which goal the median reaches."""
        if self.must is None or self.aim is None:
            return ""
        sign = -1 if self.at_most else 1
        middle = sign * median(self.values)
        if middle >= sign * self.aim:
            return "aim"
        return "must" if middle >= sign * self.must else "missed"

    def cells(self) -> list[str]:
        """Return what stands in the table."""
        sign = "<= " if self.at_most else ""
        goals = ["" if goal is None else f"{sign}{goal:g}" for goal in (self.must, self.aim)]
        low, high = min(self.values), max(self.values)
        spread = f"{low:.3g} to {high:.3g}"
        return [self.title, f"{median(self.values):.3g}", spread, *goals, self.verdict]


def table(lines: Iterable[Line]) -> str:
    """Return those that were measured, as Markdown."""
    rows = [line.cells() for line in lines if line.values]
    head = ["| | median | range | must | aim | reached |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])
