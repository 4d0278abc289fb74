"""What a checkup found -> a report for people, or one JSON object."""

import dataclasses
import itertools
from collections.abc import Iterator

from codegen_cli.measuring.findings import Checkup, Forecast, Gpus, Kernels, Problem
from codegen_cli.terminal import console, streams, tables
from codegen_cli.terminal.screen import USUAL_COLUMNS

_MODEL_HEADERS = (
    "model",
    "format",
    "here",
    "needs, GB",
    "fits",
    "GB/token",
    "threads",
    "tokens/s",
)


def write_report(checkup: Checkup) -> None:
    """Write the report to stdout."""
    tables.facts(list(_facts(checkup)))
    streams.write_line("")
    if checkup.forecasts:
        tables.table(list(_model_rows(checkup.forecasts)), _MODEL_HEADERS)
        streams.write_line("")
        tables.facts(list(_legend(checkup)), log_columns=USUAL_COLUMNS)
        tables.prose("To measure a model: codegen bench -m NAME\n")
    for problem in checkup.problems:
        _write_problem(problem)
    if not checkup.problems:
        streams.write_line("Nothing is wrong.")


def write_json(checkup: Checkup) -> None:
    """Write one object to stdout: the fields of Checkup by their names, paths as text."""
    fields = {**dataclasses.asdict(checkup), "is_broken": checkup.is_broken}
    streams.write_json(fields)


def _facts(checkup: Checkup) -> Iterator[tuple[str, str]]:
    yield "versions", ", ".join(f"{name} {text}" for name, text in checkup.versions.items())
    yield "CPU", checkup.cpu_name
    yield "", f"with {' '.join(checkup.cpu_features) or 'no feature that a kernel asks for'}"
    yield "kernels", _kernels_cell(checkup.kernels)
    yield "prefetch", _prefetch_cell(checkup.kernels)
    yield "compiled code", _cache_cell(checkup.kernels)
    yield "threads", f"{checkup.n_threads} ({checkup.threads_reason})"
    yield "memory", _memory_cell(checkup)
    yield "reading it", f"{checkup.reading.limit / 1e9:.1f} GB/s on all threads together"
    if checkup.prefetches:
        ways = [f"{hint} {speed / 1e9:.1f}" for hint, speed in checkup.prefetches.items()]
        yield "", f"by prefetch {', '.join(ways)}"
    yield "models in", str(checkup.models_dir or "nowhere")
    yield from _gpu_facts(checkup.gpus)


def _gpu_facts(gpus: Gpus) -> Iterator[tuple[str, str]]:
    """Nothing where there is nothing to tell: most machines have no GPU for this."""
    if gpus.torch is not None:
        asked = "" if gpus.found is not None else "; codegen doctor --device auto asks it for GPUs"
        yield "PyTorch", f"{gpus.torch}{asked}"
    for gpu in gpus.found or ():
        memory = (
            ""
            if gpu.free_bytes is None or gpu.total_bytes is None
            else (f"{console.size(gpu.free_bytes)} free of {console.size(gpu.total_bytes)}, ")
        )
        speed = f"a copy reads and writes {gpu.copy_bytes_per_second / 1e9:.0f} GB/s"
        yield "GPU", f"{gpu.name}: {memory}{speed}"
        yield "", f"kernels: {'; '.join(gpu.kernels) or 'none, as there is no Triton for it'}"
        for format, names in gpu.fits.items():
            yield "", f"fits in {format}: {_by_size(names) or 'none'}"
    if gpus.found == []:
        yield "GPU", f"none{f': {gpus.obstacle}' * bool(gpus.obstacle)}"


def _by_size(names: list[str]) -> str:
    """Return models of one size as one: 350M-nl/multi/mono, 2B-nl/multi/mono."""
    sizes = itertools.groupby(names, key=lambda name: name.partition("-")[0])
    return ", ".join(_joined(list(some)) for _, some in sizes)


def _legend(checkup: Checkup) -> Iterator[tuple[str, str]]:
    speeds = [f"{format} {speed / 1e9:.1f}" for format, speed in checkup.reading.kernels.items()]
    kernels, limit = ", ".join(speeds) or "none runs", f"{checkup.reading.limit / 1e9:.1f}"
    yield (
        "needs",
        'memory that the model takes while it runs; "fits" compares it with what is available',
    )
    yield "GB/token", "weights that the CPU reads for every token it writes"
    yield "threads", "that it runs on: more would find no weights to read, or no core"
    yield (
        "tokens/s",
        "to expect after a short prompt: the GB/s at which the kernels run through weights "
        f"({kernels}; this memory gives {limit}), over GB/token. A model so small that the "
        "CPU's caches hold it was run instead.",
    )


def _kernels_cell(kernels: Kernels) -> str:
    usable = ", ".join(kernels.usable)
    if kernels.path is None:
        return f"none (CODEGEN_KERNELS); this CPU can run {usable}"
    origin = "as CODEGEN_KERNELS says" if kernels.is_forced else "the best"
    return f"{kernels.path}, {origin} of {usable}"


def _prefetch_cell(kernels: Kernels) -> str:
    if kernels.prefetch is None:
        return "none (CODEGEN_PREFETCH)"
    origin = "as CODEGEN_PREFETCH says" if kernels.is_prefetch_forced else "as suits this CPU"
    hint, _, distance = kernels.prefetch.partition(":")
    return f"{hint}, {f'{distance} bytes ahead, ' * bool(distance)}{origin}"


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
            yield [_joined(names) if index == 0 else "", *row]


def _joined(names: list[str]) -> str:
    """Return names of one size as 350M-nl/multi/mono."""
    size = names[0].partition("-")[0]
    if any(name.partition("-")[0] != size for name in names):
        return ", ".join(names)
    return "/".join([names[0], *(name.removeprefix(f"{size}-") for name in names[1:])])


def _cells(forecast: Forecast) -> tuple[str, ...]:
    speed = forecast.tokens_per_second
    return (
        forecast.format,
        "packed" if forecast.path else "",
        f"{forecast.memory_bytes / 1e9:.1f}",
        {True: "yes", False: "no", None: "?"}[forecast.fits],
        f"{forecast.token_bytes / 1e9:.2f}",
        str(forecast.n_threads),
        "-" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}",
    )


def _write_problem(problem: Problem) -> None:
    kind = "Broken" if problem.is_broken else "Not good"
    tables.prose(f"{kind}: {problem.sentence}")
    if problem.hint:
        tables.prose(problem.hint, indent="  ")
