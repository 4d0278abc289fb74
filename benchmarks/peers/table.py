"""rounds.jsonl -> the table of ratios, and of medians, as Markdown.

Two engines are compared within a round; what stands in the table is the median of the ratios of
those rounds that count (trials.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from engine_client import Series
from rounds import (
    COMPARED_DEPTHS,
    N_TEXTS,
    PROMPTS,
    TEXTS_DEPTH,
    WHOLE_NEW,
    WHOLE_PROMPT,
    shares_only,
)
from trials import Rounds, Trial, is_quiet, quietest, seconds, slow_rounds, speed

POSITION_BYTES = 20 * 2 * 1024 * 2
"""Keys and values of one position in the 350M shape: n_layer * 2 * n_embd in fp16."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a value per round, and whether that round counts.

    must, aim   the project's goals; at_most: values below them are good. None: there is no goal
    bounds      the values of the same rounds, had we only read memory as fast as the C loop, and of
                whole processes done what libraries.py does; empty where other things bound them
    """

    title: str
    values: Sequence[tuple[float, bool]]
    must: float | None = None
    aim: float | None = None
    at_most: bool = False
    unit: str = ""
    bounds: Sequence[tuple[float, bool]] = ()

    @property
    def counted(self) -> list[float]:
        return _counted(self.values)

    @property
    def used(self) -> list[float]:
        """The rounds that count; all of them if none does, and then the table says so."""
        return self.counted or [value for value, _ in self.values]

    @property
    def used_bounds(self) -> list[float]:
        """Of the same rounds as `used`."""
        return _counted(self.bounds) or [bound for bound, _ in self.bounds]

    @property
    def verdict(self) -> str:
        """Which goal the median reaches."""
        if self.must is None or self.aim is None or not self.used:
            return ""
        sign = -1 if self.at_most else 1
        middle = sign * median(self.used)
        if middle >= sign * self.aim:
            return "aim"
        return "must" if middle >= sign * self.must else "missed"


def _counted(values: Iterable[tuple[float, bool]]) -> list[float]:
    return [value for value, counts in values if counts]


def ratios(
    rounds: Rounds,
    ours: Series,
    theirs: Series,
    metric: str,
    n: int,
    value: Callable[[Trial], float] = speed,
    their_value: Callable[[Trial], float] | None = None,
    their_metric: str | None = None,
) -> Iterator[tuple[float, bool]]:
    """Of each round: value(ours) / value(theirs), and whether it counts.

    their_value, their_metric  where theirs is another one
    """
    their_measure = theirs, their_metric or metric, n
    all_theirs, slow = rounds.of(*their_measure), slow_rounds(rounds, *their_measure)
    for number, trials in rounds.of(ours, metric, n).items():
        if number not in all_theirs:  # the last round of a run that was ended
            continue
        a, b = quietest(trials), quietest(all_theirs[number])
        counts = all(map(is_quiet, [*a, *b])) and number not in slow
        yield median(map(value, a)) / median(map(their_value or value, b)), counts


def values(
    rounds: Rounds, series: Series, metric: str, n: int, value: Callable[[Trial], float]
) -> Iterator[tuple[float, bool]]:
    """Of each round: a value of one engine, and whether its trials were quiet."""
    for trials in rounds.of(series, metric, n).values():
        used = quietest(trials)
        yield median(map(value, used)), all(map(is_quiet, used))


def read_share(rounds: Rounds, series: Series) -> Callable[[Trial], float]:
    """Bytes of weights read per second / what a C loop read beside it."""
    touched_gb = rounds.description(series)["touched_bytes"] / 1e9
    return lambda trial: speed(trial) * touched_gb / float(trial["read_gb"])


def speed_of_reading(rounds: Rounds, series: Series) -> Callable[[Trial], float]:
    """Tokens/s of a decode trial, had it done nothing but read weights, keys and values."""
    weights = rounds.description(series)["touched_bytes"]

    def tokens_per_second(trial: Trial) -> float:
        n_positions = trial["n"] + trial["n_tokens"] / 2
        read_bytes = weights + n_positions * POSITION_BYTES
        return rounds.read_gb(trial["round"]) * 1e9 / read_bytes

    return tokens_per_second


def least_seconds(
    rounds: Rounds, series: Series, n_tokens: int, value: Callable[[Trial], float]
) -> Callable[[Trial], float]:
    """Seconds of a run that only does what libraries.py does, and reads the weights for each token.

    value  of a trial of that: until it ends, or until its first byte
    """
    weights = rounds.description(series)["touched_bytes"]
    imports = rounds.of(series, "libraries", 0)

    def seconds_of_run(trial: Trial) -> float:
        number = trial["round"]
        reading = n_tokens * weights / (rounds.read_gb(number) * 1e9)
        return median(map(value, imports[number])) + reading

    return seconds_of_run


def beyond_file(rounds: Rounds, series: Series) -> Callable[[Trial], float]:
    """Peak resident memory less the packed file, in MiB."""
    file_mib = rounds.description(series)["file_bytes"] / 2**20
    return lambda trial: float(trial["peak_rss_mib"]) - file_mib


def first_byte(trial: Trial) -> float:
    return float(trial["first_byte_seconds"])


def rows(rounds: Rounds) -> list[Row]:
    """Every line of the table that was measured, with the goals this project set itself."""
    found = (
        *speed_rows(rounds),
        *prefill_rows(rounds),
        *thread_rows(rounds),
        *baseline_rows(rounds),
        *process_rows(rounds),
    )
    return [row for row in found if row.values]


def speed_rows(r: Rounds) -> Iterator[Row]:
    """Decode beside llama.cpp, and as a share of what memory delivers."""
    int4, int8 = r.series("codegen", "int4"), r.series("codegen", "int8")
    q4, q8 = r.series("llamacpp", "Q4_0"), r.series("llamacpp", "Q8_0")
    for ours, theirs, n, must, aim in (
        (int4, q4, 32, 1.6, 2.2),
        (int8, q8, 32, 1.6, 2.2),
        (int4, q4, 1024, 2.0, 3.0),
        (int8, q8, 1024, 2.0, 3.0),
    ):
        title = f"decode {ours.format} after {n} / llama.cpp {theirs.format}"
        bounds = ratios(r, ours, theirs, "decode", n, speed_of_reading(r, ours), speed)
        found = [*ratios(r, ours, theirs, "decode", n)]
        yield Row(title, found, must, aim, bounds=[*bounds])
        drafted = ratios(r, ours, theirs, "drafted", n, their_metric="decode")
        yield Row(f"{title}, with drafts", [*drafted], must, aim)
    many = [*ratios(r, int4, q4, "many", TEXTS_DEPTH)]
    yield Row(
        f"{N_TEXTS} texts after {TEXTS_DEPTH}, int4 / llama.cpp Q4_0 with {N_TEXTS} sequences",
        many,
        1.3,
        2.0,
    )
    for ours in filter(r.has, (int4, int8, *shares_only(r.threads))):
        title = f"decode {ours.format}" + (", 2B shape" if ours.size == "2B" else "")
        shares = values(r, ours, "decode", 32, read_share(r, ours))
        yield Row(f"{title}: share of the read limit", [*shares], 0.75, 0.9)


def prefill_rows(r: Rounds) -> Iterator[Row]:
    """Prompts beside OpenVINO, the faster of our two formats."""
    theirs = r.series("openvino", "int8")
    for n in PROMPTS:
        both = [
            [*ratios(r, r.series("codegen", format), theirs, "prefill", n)]
            for format in ("int8", "int4")
        ]
        best = max(both, key=lambda pairs: median([value for value, _ in pairs] or [0]))
        yield Row(f"prefill {n} / OpenVINO int8", best, 0.9, 1.3)


def thread_rows(r: Rounds) -> Iterator[Row]:
    """All threads beside one; the aim is what they gain at reading memory."""
    for format in ("int4", "int8"):
        ours, alone = r.series("codegen", format), r.series("codegen", format, 1)
        limits = [*ratios(r, ours, alone, "decode", 32, lambda trial: float(trial["read_gb"]))]
        aim = median([value for value, _ in limits] or [0])
        for metric, n in (("decode", 32), ("prefill", 512)):
            title = f"{r.threads} threads / 1 thread: {metric} {format}"
            yield Row(title, [*ratios(r, ours, alone, metric, n)], 1.5, aim)


def baseline_rows(r: Rounds) -> Iterator[Row]:
    """Beside another commit of this project, where one was measured."""
    for format in ("int4", "int8"):
        ours, theirs = r.series("codegen", format), r.series("baseline", format)
        for n in COMPARED_DEPTHS:
            found = [*ratios(r, ours, theirs, "decode", n)]
            yield Row(f"decode {format} after {n} / baseline", found)
        for n in PROMPTS:
            yield Row(f"prefill {n} {format} / baseline", [*ratios(r, ours, theirs, "prefill", n)])


def process_rows(r: Rounds) -> Iterator[Row]:
    """`codegen complete` and `codegen quantize`, seen from outside."""
    ours, theirs = r.series("codegen", "int4"), r.series("llamacpp", "Q4_0")
    at_most = partial(Row, at_most=True)
    # How many tokens a step gives depends on the text: there is no bound where guesses are made.
    for title, metric, value, must, bound_tokens in (
        ("whole process", "whole", seconds, 0.6, None),
        ("whole process without drafts", "undrafted", seconds, 0.6, WHOLE_NEW),
        ("start to first byte", "whole", first_byte, 0.7, 1),
    ):
        beside = partial(ratios, r, ours, theirs, metric, WHOLE_PROMPT, their_metric="whole")
        bounds: Iterable[tuple[float, bool]] = ()
        if bound_tokens is not None and r.of(ours, "libraries", 0):
            bounds = beside(value=least_seconds(r, ours, bound_tokens, value), their_value=value)
        yield at_most(
            f"{title}, int4 / llama.cpp Q4_0",
            [*beside(value=value)],
            must,
            0.4,
            bounds=[*bounds],
        )
    memory = values(r, ours, "whole", WHOLE_PROMPT, beyond_file(r, ours))
    yield at_most("peak memory beyond the int4 file", [*memory], 180, 100, unit=" MiB")
    packing = values(r, ours, "quantize", 0, seconds)
    yield at_most("codegen quantize to int4", [*packing], 30, 10, unit=" s")
