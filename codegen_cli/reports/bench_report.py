"""Measured speeds of a model -> a table for people, or one JSON object."""

import platform
from collections.abc import Sequence
from statistics import median

from codegen_cli.contract.engine import Engine
from codegen_cli.contract.version import __version__
from codegen_cli.machine import cpu
from codegen_cli.machine.disturbance import NOTICEABLE_CORES
from codegen_cli.measuring.speed import Measure
from codegen_cli.models.registry import PackedModel
from codegen_cli.terminal import streams, tables
from codegen_cli.terminal.screen import USUAL_COLUMNS

_HEADERS = ("what", "tokens/s", "MB/token", "GB/s", "limit", "share", "tokens/s in each round")
_LEGEND = [
    (
        "prompt of N",
        "how fast a prompt of N tokens is read; all of its tokens share one reading of the "
        "weights, so it is limited by arithmetic",
    ),
    (
        "after N",
        "how fast a text is continued, one token at a time, when N tokens stand before it",
    ),
    ("MB/token", "weights and cached keys and values that one such token makes the device read"),
    (
        "GB/s, limit",
        "what was read so, and what the same threads read from memory just before and after, "
        "in a plain loop; on a GPU, what a copy within its memory reads and writes",
    ),
    (
        "share",
        "of the limit that was reached; more than 100% where the CPU's caches hold a part of the "
        "model, memory became faster meanwhile, or asking it ahead paid more than in the loop",
    ),
]


def write_table(
    engine: Engine,
    chosen: PackedModel,
    measures: Sequence[Measure],
    other_cores: float | None,
) -> None:
    """Write the table to stdout, with what its columns mean.

    other_cores  that other programs kept busy meanwhile; None: not known
    """
    write_title(engine, chosen, len(measures[0].speeds))
    tables.table([_row(measure) for measure in measures], _HEADERS, wraps_last=True)
    write_legend(_LEGEND, other_cores)


def write_title(engine: Engine, chosen: PackedModel, n_rounds: int) -> None:
    """Write what was measured, where, and how often."""
    title = (
        f"{chosen.name}: {engine.format}, {engine.bits_per_weight:.1f} bits per weight; "
        f"{engine.device}; {n_rounds} round{'s' * (n_rounds > 1)}"
    )
    tables.prose(f"{title}\n")


def write_legend(legend: Sequence[tuple[str, str]], other_cores: float | None) -> None:
    """Write what the columns of a table mean, and whether other programs ran meanwhile."""
    streams.write_line("")
    tables.facts(legend, log_columns=USUAL_COLUMNS)
    tables.prose("All but the last column are medians of the rounds.")
    if other_cores is not None and other_cores > NOTICEABLE_CORES:
        tables.prose(
            f"\nOther programs kept {other_cores:.1f} cores busy meanwhile: on an idle machine "
            "the model is faster."
        )


def write_json(
    engine: Engine,
    chosen: PackedModel,
    measures: Sequence[Measure],
    other_cores: float | None,
) -> None:
    """Write one object to stdout; speeds in tokens, limits in bytes per second."""
    fields = described(engine, chosen, other_cores)
    streams.write_json(fields | {"measures": [_object(measure) for measure in measures]})


def described(engine: Engine, chosen: PackedModel, other_cores: float | None) -> dict[str, object]:
    """Return for JSON what was measured, where, and what else ran meanwhile."""
    return {
        "model": chosen.name,
        "path": str(chosen.path),
        "format": engine.format,
        "bits_per_weight": engine.bits_per_weight,
        "n_positions": engine.n_positions,
        "device": engine.device,
        "engine": engine.identity.engine,
        "cpu": cpu.name(),
        "python": platform.python_version(),
        "codegen": __version__,
        "other_cores": other_cores,
    }


def _row(measure: Measure) -> list[str]:
    trials = " ".join(map(shown, measure.speeds))
    if measure.phase == "prefill":
        name = f"prompt of {measure.n_tokens}"
        return [name, shown(measure.tokens_per_second), "", "", "", "", trials]
    return [
        f"after {measure.n_tokens}",
        shown(measure.tokens_per_second),
        f"{measure.token_bytes / 1e6:.0f}",
        f"{measure.token_bytes * measure.tokens_per_second / 1e9:.1f}",
        f"{median(measure.limits) / 1e9:.1f}",
        f"{median(measure.shares):.0%}",
        trials,
    ]


def _object(measure: Measure) -> dict[str, object]:
    fields: dict[str, object] = {
        "phase": measure.phase,
        "n_tokens": measure.n_tokens,
        "tokens_per_second": measure.tokens_per_second,
        "tokens_per_second_by_round": measure.speeds,
        "read_limit_by_round": measure.limits,
    }
    if measure.phase == "decode":
        fields["bytes_per_token"] = measure.token_bytes
        fields["share_of_read_limit"] = median(measure.shares)
        fields["share_of_read_limit_by_round"] = measure.shares
    return fields


def shown(speed: float) -> str:
    """Return tokens per second in three digits or so."""
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.1f}"
