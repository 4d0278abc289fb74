"""What a checkup found -> a report for people, or one JSON object."""

import dataclasses
import itertools
from collections.abc import Iterator

from codegen_cli import console, drawing, streams
from codegen_cli.analysis.checkup import Checkup, Forecast, Kernels, Problem

_MODEL_HEADERS = ("model", "format", "here", "needs, GB", "fits", "GB per token", "tokens/s")
_LEGEND = """\
needs         memory that the model takes while it runs; "fits" compares it with what is available
GB per token  weights that the CPU reads for every token it writes
tokens/s      to expect after a short prompt: the GB/s at which the kernels run through weights
              ({kernels}; this memory gives {limit}), over GB per token.
              A model so small that the CPU's caches hold it was run instead.
To measure a model: codegen bench -m NAME
"""


def write_report(checkup: Checkup) -> None:
    """Write the report to stdout."""
    drawing.table(list(_facts(checkup)))
    if checkup.forecasts:
        streams.write_result("\n")
        drawing.table(list(_model_rows(checkup.forecasts)), _MODEL_HEADERS)
        kernels = ", ".join(
            f"{format} {speed / 1e9:.1f}" for format, speed in checkup.reading.kernels.items()
        )
        limit = f"{checkup.reading.limit / 1e9:.1f}"
        streams.write_result("\n" + _LEGEND.format(kernels=kernels or "none runs", limit=limit))
    streams.write_result("\n")
    for problem in checkup.problems:
        _write_problem(problem)
    if not checkup.problems:
        streams.write_result("Nothing is wrong.\n")


def write_json(checkup: Checkup) -> None:
    """Write one object to stdout: the fields of Checkup by their names, paths as text."""
    fields = {**dataclasses.asdict(checkup), "is_broken": checkup.is_broken}
    streams.write_json(fields)


def _facts(checkup: Checkup) -> Iterator[tuple[str, str]]:
    yield "versions", ", ".join(f"{name} {text}" for name, text in checkup.versions.items())
    yield "CPU", checkup.cpu_name
    yield "", f"with {' '.join(checkup.cpu_features) or 'no feature that a kernel asks for'}"
    yield "kernels", _kernels_cell(checkup.kernels)
    yield "compiled code", _cache_cell(checkup.kernels)
    yield "threads", f"{checkup.n_threads} ({checkup.threads_reason})"
    yield "memory", _memory_cell(checkup)
    yield "reading it", f"{checkup.reading.limit / 1e9:.1f} GB/s on all threads together"
    yield "models in", str(checkup.models_dir or "nowhere")


def _kernels_cell(kernels: Kernels) -> str:
    usable = ", ".join(kernels.usable)
    if kernels.path is None:
        return f"none (CODEGEN_KERNELS); this CPU can run {usable}"
    origin = "as CODEGEN_KERNELS says" if kernels.is_forced else "the best"
    return f"{kernels.path}, {origin} of {usable}"


def _cache_cell(kernels: Kernels) -> str:
    place = kernels.directory or "nowhere"
    files = f"{kernels.n_files} files, {kernels.bytes / 1e6:.1f} MB, in {place}"
    return files if kernels.is_kept else f"not kept; {files}"


def _memory_cell(checkup: Checkup) -> str:
    installed, available = checkup.memory_bytes, checkup.memory_available_bytes
    if available is None:
        return "not known"
    text = f"{console.size(available)} available"
    return text if installed is None else f"{text} of {console.size(installed)}"


def _model_rows(forecasts: list[Forecast]) -> Iterator[list[str]]:
    """One row for each format; models of which all rows are the same share them."""
    rows: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for name, each in itertools.groupby(forecasts, key=lambda forecast: forecast.name):
        rows.setdefault(tuple(map(_cells, each)), []).append(name)
    for cells, names in rows.items():
        for index, row in enumerate(cells):
            yield [", ".join(names) if index == 0 else "", *row]


def _cells(forecast: Forecast) -> tuple[str, ...]:
    speed = forecast.tokens_per_second
    return (
        forecast.format,
        "packed" if forecast.path else "",
        f"{forecast.memory_bytes / 1e9:.1f}",
        {True: "yes", False: "no", None: "?"}[forecast.fits],
        f"{forecast.token_bytes / 1e9:.2f}",
        "-" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}",
    )


def _write_problem(problem: Problem) -> None:
    kind = "Broken" if problem.is_broken else "Not good"
    streams.write_result(f"{kind}: {console.printable(problem.sentence)}\n")
    if problem.hint:
        streams.write_result(f"  {console.printable(problem.hint)}\n")
