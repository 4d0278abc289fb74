"""rounds.jsonl -> decode.svg: tokens/s against the number of tokens before, an engine a line."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
from engine_client import Series
from matplotlib import pyplot
from report import name_of, speed_of
from rounds import DEPTHS, all_series
from trials import Rounds

COLOURS = {"codegen": "#1b5e9e", "llamacpp": "#c2571a", "openvino": "#5d7a3a"}
DASHES = {"int4": "-", "Q4_0": "-", "int8": "--", "Q8_0": "--"}


def draw(rounds: Rounds, path: Path) -> None:
    """Write the plot; the same rounds give the same bytes."""
    matplotlib.rcParams["svg.hashsalt"] = "codegen"
    figure, axes = pyplot.subplots(figsize=(7.6, 4.0), layout="constrained")
    ends = {}
    for series in all_series(rounds.threads):
        if series.threads == rounds.threads and series.engine in COLOURS:
            speeds = [speed_of(rounds, series, "decode", n) for n in DEPTHS]
            line, colour = DASHES[series.format], COLOURS[series.engine]
            axes.plot(DEPTHS, speeds, line, color=colour, marker="o", markersize=4)
            ends[series] = speeds[-1]
    axes.set_xlim(0, DEPTHS[-1] * 1.3)
    axes.set_ylim(bottom=0)
    axes.set_xticks(DEPTHS)
    axes.set_xlabel("tokens before")
    axes.set_ylabel("tokens per second")
    title = f"Decode, 350M shape, {rounds.threads} threads, {rounds.header['cpu']}"
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for series, height in apart(ends, 0.055 * axes.get_ylim()[1]).items():
        place = (DEPTHS[-1] * 1.02, height)
        axes.text(*place, name_of(series), color=COLOURS[series.engine], va="center")
    figure.savefig(path, metadata={"Date": None})


def apart(heights: dict[Series, float], least: float) -> dict[Series, float]:
    """Labels' heights, raised where one would lie less than `least` above the next lower."""
    placed: dict[Series, float] = {}
    lower = float("-inf")
    for series in sorted(heights, key=heights.__getitem__):
        lower = max(heights[series], lower + least)
        placed[series] = lower
    return placed
