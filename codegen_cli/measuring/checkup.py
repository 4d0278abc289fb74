"""This machine and what codegen has on it -> facts, the speed to expect, and what is wrong."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import cast

from codegen_cli.contract.delay import OnDelay
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.contract.version import __version__
from codegen_cli.engine_cpu.compile import kernel_cache, kernel_directory
from codegen_cli.engine_cpu.thread_limit import most_threads
from codegen_cli.machine import cpu, memory, places
from codegen_cli.machine.cores import usable_cores
from codegen_cli.machine.disturbance import OtherPrograms
from codegen_cli.machine.prefetch import prefetch_choice
from codegen_cli.measuring.findings import Checkup, Forecast, Kernels, Problem
from codegen_cli.measuring.forecast import ReadSpeeds, expected_tokens_per_second, measure_kernels
from codegen_cli.measuring.gpus import examine_gpus
from codegen_cli.measuring.prefetch_trial import bytes_per_second_by_hint
from codegen_cli.measuring.problems import (
    damaged_models,
    default_problems,
    directory_problems,
    disturbances,
    kernel_problems,
    memory_problems,
    reading_problems,
    thread_problems,
)
from codegen_cli.measuring.read_limit import MemoryReader
from codegen_cli.measuring.speed import step_seconds
from codegen_cli.models.inventory import FormatState, ModelState, all_models
from codegen_cli.session.engines import open_engine
from codegen_cli.terminal import console
from quantize.description.config import ModelConfig, parse_config
from quantize.description.formats import MatrixFormat
from quantize.files.errors import UserError
from quantize.packed.packed_file import read_packed_file
from quantize.packed.sizes import BytesByFormat, weight_bytes, weight_bytes_if_packed

_LIBRARIES = ("numpy", "numba", "llvmlite")
_READ_SECONDS = 1.0
# What caches hold says nothing about memory: so small a model is run instead.
_RUN_BYTES = 100_000_000
_SHORT_PROMPT = 32


Progress = Callable[[float, float], None]


def examine(
    n_threads: int | None,
    device: str | None,
    runs: bool,
    problems: list[Problem],
    on_progress: Progress,
) -> Checkup:
    """Look at everything and measure what is to be measured, in a few seconds.

    n_threads  None: what a model would run on by default
    device     what to ask PyTorch for; None: nothing
    runs       what `load_kernels` told, and the problems that it met
    """
    cores, available = usable_cores(), memory.available_bytes()
    n_readers = n_threads or cores.n_threads
    others, prefetches = OtherPrograms(), {}
    with MemoryReader(n_readers, available) as reader:
        if runs:
            reading = measure_kernels(n_threads, reader, available, on_progress)
            prefetches = bytes_per_second_by_hint(reader, prefetch_choice().bytes_ahead)
        else:
            reading = ReadSpeeds(reader.median_bytes_per_second(_READ_SECONDS))
    other_cores = others.cores()
    with console.silence():  # what keeps models from being found is a problem below
        states = all_models()
    checkup = Checkup(
        versions=_versions(),
        cpu_name=cpu.name(),
        cpu_features=cpu.telling_features(),
        kernels=_kernels(),
        n_threads=n_readers,
        threads_reason=cores.reason,
        memory_bytes=memory.installed_bytes(),
        memory_available_bytes=available,
        models_dir=places.find_models_dir(),
        reading=reading,
        prefetches=prefetches,
        other_cores=other_cores,
        gpus=examine_gpus(device, states, problems),
        problems=problems,
    )
    problems += thread_problems(n_readers, cores)
    disturbed = list(disturbances(other_cores))
    problems += disturbed
    if runs:
        problems += kernel_problems(checkup.kernels)
    if runs and not disturbed:
        problems += reading_problems(reading, prefetches, checkup.kernels)
    problems += directory_problems()
    problems += default_problems()
    problems += damaged_models(states)
    for state in states:
        checkup.forecasts += _forecasts(state, checkup, n_threads, runs)
    if available is not None:
        problems += memory_problems(checkup.forecasts, available)
    return checkup


def load_kernels(on_delay: OnDelay, problems: list[Problem]) -> bool:
    """Have the kernels compiled; tell whether they run, what stands in the way in the problems."""
    try:
        run_interruptibly(lambda: kernel_cache.load_step(on_delay))
        return True
    except UserError as error:
        problems.append(Problem(f"{error.message}.", error.hint, is_broken=True))
    # From numba, llvmlite or LLVM: whatever it is, a doctor names it and looks at the rest.
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        hint = "Install it again: pip install --force-reinstall numba llvmlite"
        sentence = f"The kernels cannot be compiled: {type(error).__name__}: {error}."
        problems.append(Problem(sentence, hint, is_broken=True))
    return False


def _kernels() -> Kernels:
    usable, forced = cpu.usable_kernel_paths(), os.environ.get("CODEGEN_KERNELS")
    directory, obstacle = None, None
    sizes: list[int] = []
    try:
        directory = kernel_directory.directory()
        kernel_directory.require_room()
        sizes = [file.stat().st_size for file in directory.iterdir()]
    except UserError as error:
        obstacle = error
    except OSError:  # a file has gone meanwhile
        pass
    wanted, way = forced or usable[0], None
    path = wanted if wanted in usable else None
    with contextlib.suppress(UserError):  # is told of where the kernels are to be loaded
        way = str(prefetch_choice())
    return Kernels(
        path=path,
        usable=usable,
        is_forced=bool(forced),
        prefetch=way,
        is_prefetch_forced=bool(os.environ.get("CODEGEN_PREFETCH")),
        directory=directory,
        is_trusted=kernel_directory.is_trusted(),
        is_kept=path is not None and way is not None and kernel_cache.is_kept(),
        n_files=len(sizes),
        bytes=sum(sizes),
        obstacle=obstacle,
    )


def _forecasts(
    state: ModelState, checkup: Checkup, threads: int | None, runs: bool
) -> Iterator[Forecast]:
    """Yield one for each format; threads: what the user asked for, if that."""
    available = checkup.memory_available_bytes
    for each in state.formats:
        if each.memory_bytes is None:
            continue
        config, sizes = _token_bytes(state, each)
        format = cast(MatrixFormat, each.format)
        n_threads = threads or min(checkup.n_threads, most_threads(config, format))
        speed = None
        if runs and each.path and sum(sizes.values()) < _RUN_BYTES:
            speed = _run(each.path, n_threads)
        elif runs:
            speed = expected_tokens_per_second(sizes, checkup.reading)
        fits = None if available is None else each.memory_bytes <= available
        yield Forecast(
            name=state.name,
            format=each.format,
            path=each.path,
            memory_bytes=each.memory_bytes,
            fits=fits,
            n_threads=n_threads,
            token_bytes=sum(sizes.values()),
            tokens_per_second=speed,
        )


def _token_bytes(state: ModelState, each: FormatState) -> tuple[ModelConfig, BytesByFormat]:
    """Return a model's config, and what a token reads."""
    if each.path:
        packed = read_packed_file(each.path)
        return packed.config, weight_bytes(packed)
    config = parse_config({"model_type": "codegen", **state.dimensions}, state.name)
    return config, weight_bytes_if_packed(config, each.format)


def _run(path: Path, n_threads: int) -> float:
    engine = open_engine(path, n_threads=n_threads)
    try:
        n_past = min(_SHORT_PROMPT, engine.n_positions // 2)
        n_steps = engine.n_positions // 2
        return 1 / median(step_seconds(engine, [engine.random_cache()], n_past, n_steps))
    finally:
        engine.close()


def _versions() -> dict[str, str]:
    versions = {"codegen": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return versions
