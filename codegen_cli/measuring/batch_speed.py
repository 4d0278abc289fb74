"""A model -> how fast it continues several texts at once, a token of each in every step.

Only the forward pass is timed, as in measuring.speed. The texts have no beginning in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median

from codegen_cli.contract.engine import Cache, Engine
from codegen_cli.measuring.speed import Progress, n_steps_of, step_seconds, take_turns
from codegen_cli.terminal import console
from quantize.files.errors import UserError

_DEPTHS = (32, 1024)


@dataclass(slots=True)
class BatchMeasure:
    """So many texts at once, of n_tokens each when the first token is written.

    step_seconds  what a step took, a token of each text: the mean of a trial, by round
    """

    n_texts: int
    n_tokens: int
    step_seconds: list[float] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of all texts together, by round."""
        return [self.n_texts / seconds for seconds in self.step_seconds]

    @property
    def tokens_per_second(self) -> float:
        """The median of all rounds."""
        return median(self.speeds)

    @property
    def step_ms(self) -> float:
        """How long each text waits for its next token: the median of all rounds."""
        return 1000 * median(self.step_seconds)

    def times_as_fast(self, other: "BatchMeasure") -> float:
        """Return how many times as many tokens as another made: the median within the rounds."""
        return median(a / b for a, b in zip(self.speeds, other.speeds, strict=True))


def plan_batches(
    engine: Engine, numbers: Sequence[int], available: int | None
) -> list[BatchMeasure]:
    """Return what there is to measure, at each depth for which there is memory.

    numbers    of texts
    available  bytes that programs may still take; None: not known, or of no interest

    Tells the memory that it takes. Raises UserError where it is not there for the least depth.
    """
    most, depths = max(numbers), _depths(engine)
    needs = [*accumulate(most * engine.cache_bytes(_positions(engine, n)) for n in depths)]
    if available is not None:
        n_fitting = sum(need <= available for need in needs)
        if not n_fitting:
            raise _too_many(most, needs[0], available)
        for n_past, need in zip(depths[n_fitting:], needs[n_fitting:], strict=True):
            console.note(
                f"{_need(most, need)}, {_available(available)}: after {n_past} is left out"
            )
        depths, needs = depths[:n_fitting], needs[:n_fitting]
    console.note(_need(most, needs[-1]))
    return [BatchMeasure(n, n_past) for n_past in depths for n in sorted(set(numbers))]


def measure_batches(
    engine: Engine, plan: Sequence[BatchMeasure], n_rounds: int | None, on_progress: Progress
) -> None:
    """Measure all of a plan in turn; n_rounds and what is raised as for speed.measure_speed."""
    n_steps, most = n_steps_of(engine), max(measure.n_texts for measure in plan)
    caches: dict[int, list[Cache]] = {
        n_past: [engine.random_cache(_positions(engine, n_past)) for _ in range(most)]
        for n_past in {measure.n_tokens for measure in plan}
    }

    def run(measure: BatchMeasure) -> None:
        own = caches[measure.n_tokens][: measure.n_texts]
        seconds = step_seconds(engine, own, measure.n_tokens, n_steps)
        measure.step_seconds.append(sum(seconds) / len(seconds))

    take_turns(plan, run, n_rounds, on_progress)


def _depths(engine: Engine) -> list[int]:
    """Return those that leave room for a trial."""
    return [n for n in _DEPTHS if _positions(engine, n) <= engine.n_positions] or [0]


def _positions(engine: Engine, n_past: int) -> int:
    return n_past + n_steps_of(engine)


def _too_many(n_texts: int, need: int, available: int) -> UserError:
    fitting = n_texts * available // need
    return UserError(
        f"{_need(n_texts, need)}, {_available(available)}",
        f"There is room for {fitting}." if fitting else "Use a smaller model.",
    )


def _need(n_texts: int, need: int) -> str:
    texts = f"{n_texts} texts need" if n_texts > 1 else "a text needs"
    return f"{texts} {console.size(need)} of memory for keys and values"


def _available(available: int) -> str:
    return f"{console.size(available)} are available"
