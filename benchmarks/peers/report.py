"""rounds.jsonl -> results.md: what was measured and where, ratios, and each engine's medians."""

from collections.abc import Callable, Iterable, Iterator
from statistics import median

from engine_client import Series
from rounds import (
    COMPARED_DEPTHS,
    DEPTHS,
    N_TEXTS,
    PROMPTS,
    TEXTS_DEPTH,
    all_series,
    shares_only,
)
from table import Row, first_byte, rows
from trials import Rounds, Trial, quietest, seconds, speed

NAMES = {"llamacpp": "llama.cpp", "openvino": "OpenVINO"}


def name_of(series: Series) -> str:
    size = "" if series.size == "350M" else f", {series.size}"
    return f"{NAMES.get(series.engine, series.engine)} {series.format}{size}"


def ratio_table(found: Iterable[Row]) -> Iterator[str]:
    """The lines of a table of ratios: medians, ranges, rounds that count, goals, bounds."""
    yield "| | median | range | rounds that count | must | aim | reached | bound |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found:
        sign = "<= " if row.at_most else ""
        goals = [
            "" if goal is None else f"{sign}{goal:.3g}{row.unit}" for goal in (row.must, row.aim)
        ]
        used = row.used
        cells = [
            row.title,
            f"{median(used):.3g}{row.unit}",
            f"{min(used):.3g} to {max(used):.3g}",
            f"{len(row.counted)} of {len(row.values)}" + ("" if row.counted else " (all shown)"),
            *goals,
            row.verdict,
            f"{median(row.used_bounds):.3g}" if row.bounds else "",
        ]
        yield f"| {' | '.join(cells)} |"


def median_of(trials: Iterable[Trial], value: Callable[[Trial], float]) -> float | None:
    """The median over the undisturbed trials, over all if there is none."""
    found = [value(trial) for trial in quietest(list(trials))]
    return median(found) if found else None


def speed_of(rounds: Rounds, series: Series, metric: str, n: int) -> float | None:
    """Median tokens/s of one measure; None where it was not taken."""
    by_round = rounds.of(series, metric, n)
    return median_of((trial for trials in by_round.values() for trial in trials), speed)


def engine_table(rounds: Rounds) -> Iterator[str]:
    """The lines of a table of medians, an engine a line; speeds in tokens/s."""
    measures = (("decode", DEPTHS), ("drafted", COMPARED_DEPTHS), ("prefill", PROMPTS))
    columns = [(metric, n) for metric, each in measures for n in each]
    titles = [f"{metric} {n}" for metric, n in columns]
    if any(trial["metric"] == "many" for trial in rounds.trials):  # earlier rounds have none
        columns.append(("many", TEXTS_DEPTH))
        titles.append(f"{N_TEXTS} texts {TEXTS_DEPTH}")
    more = ["whole run, s", "first byte, s", "MB per token", "bits per weight"]
    yield f"| | threads | {' | '.join([*titles, *more])} |"
    yield "|---" * (len(titles) + len(more) + 2) + "|"
    for series in filter(rounds.has, all_series(rounds.threads) + shares_only(rounds.threads)):
        described = rounds.description(series)
        whole = [t for trials in rounds.of(series, "whole", 32).values() for t in trials]
        cells = [_cell(speed_of(rounds, series, *column)) for column in columns]
        cells += [_cell(median_of(whole, value)) for value in (seconds, first_byte)]
        cells += [f"{described['touched_bytes'] / 1e6:.0f}", f"{described['bits_per_weight']:.2f}"]
        yield f"| {name_of(series)} | {series.threads} | {' | '.join(cells)} |"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def report(rounds: Rounds) -> str:
    """The whole page."""
    header = rounds.header
    limits = [
        trial["read_gb"]
        for trial in rounds.trials
        if "read_gb" in trial and trial["threads"] == rounds.threads
    ]
    n_rounds = max(trial["round"] for trial in rounds.trials)
    versions = sorted({engine["version"] for engine in header["engines"].values()})
    differences = ", ".join(f"{name} {value:.4f}" for name, value in header["verified"].items())
    lines = [
        f"# {header['cpu']}, {header['kernels']} kernels, {header['date']}",
        "",
        f"{header['cores']} cores, {header['threads']} threads, {header['system']}; commit "
        f"{header['commit']}; {'; '.join(versions)}. {n_rounds} round(s); a C loop read "
        f"{median(limits):.0f} GB/s (median; {min(limits):.0f} to {max(limits):.0f}) with "
        f"{header['threads']} threads. Random weights of the 350M shape unless a line says 2B.",
        "",
        "Difference from transformers in float32, as a share of the scores' spread: "
        f"{differences}.",
        "",
        *ratio_table(rows(rounds)),
        "",
        "Bound: what the line would say, had codegen only read its weights, keys and values, as "
        "fast as a C loop did in the same round (the plain one, or the one that asks ahead and "
        "waits after each stage as a forward pass must, whichever was faster: peers/limits.c), "
        "and as a process also imported the libraries that it is built on, parsed the tokenizer "
        "beside that and mapped the file (peers/libraries.py); median of the rounds that count. "
        "Memory drifts within a round, so single values may pass it.",
        "",
        "Medians; speeds in tokens/s, `decode N`: after N tokens, `drafted N`: there with drafts, "
        "`prefill N`: a prompt of N:",
        "",
        *engine_table(rounds),
    ]
    return "\n".join(lines) + "\n"
