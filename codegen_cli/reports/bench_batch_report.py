"""Measured speeds of several texts at once -> a table for people, or one JSON object."""

from collections.abc import Sequence

from codegen_cli.contract.engine import Engine
from codegen_cli.measuring.batch_speed import BatchMeasure
from codegen_cli.models.registry import PackedModel
from codegen_cli.reports.bench_report import described, shown, write_legend, write_title
from codegen_cli.terminal import streams, tables

_HEADERS = ("what", "tokens/s", "ms/step", "times one", "tokens/s in each round")
_LEGEND = [
    (
        "K after N",
        "how fast K texts are continued, a token of each in every step, when N tokens of its own "
        "stand before each; all of them share one reading of the weights",
    ),
    ("tokens/s", "of all K texts together"),
    ("ms/step", "how long each text waits for its next token"),
    ("times one", "tokens/s, as a multiple of those of one text in the same rounds"),
]


def write_table(
    engine: Engine,
    chosen: PackedModel,
    measures: Sequence[BatchMeasure],
    other_cores: float | None,
) -> None:
    """Write the table to stdout, with what its columns mean; other_cores as in bench_report."""
    write_title(engine, chosen, len(measures[0].step_seconds))
    rows = [_row(measure, _single(measures, measure)) for measure in measures]
    tables.table(rows, _HEADERS, wraps_last=True)
    write_legend(_LEGEND, other_cores)


def write_json(
    engine: Engine,
    chosen: PackedModel,
    measures: Sequence[BatchMeasure],
    other_cores: float | None,
) -> None:
    """Write one object to stdout; speeds in tokens per second of all texts together."""
    objects = [_object(measure, _single(measures, measure)) for measure in measures]
    streams.write_json(described(engine, chosen, other_cores) | {"measures": objects})


def _single(measures: Sequence[BatchMeasure], beside: BatchMeasure) -> BatchMeasure | None:
    """Return what was measured of one text at the same depth, if it was."""
    wanted = 1, beside.n_tokens
    return next((each for each in measures if (each.n_texts, each.n_tokens) == wanted), None)


def _row(measure: BatchMeasure, single: BatchMeasure | None) -> list[str]:
    return [
        f"{measure.n_texts} after {measure.n_tokens}",
        shown(measure.tokens_per_second),
        f"{measure.step_ms:.1f}",
        "" if single is None else f"{measure.times_as_fast(single):.2f}",
        " ".join(map(shown, measure.speeds)),
    ]


def _object(measure: BatchMeasure, single: BatchMeasure | None) -> dict[str, object]:
    return {
        "phase": "decode",
        "n_texts": measure.n_texts,
        "n_tokens": measure.n_tokens,
        "tokens_per_second": measure.tokens_per_second,
        "tokens_per_second_by_round": measure.speeds,
        "step_ms": measure.step_ms,
        "times_one_text": None if single is None else measure.times_as_fast(single),
    }
