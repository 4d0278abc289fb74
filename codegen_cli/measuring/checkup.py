"""This machine and what codegen has on it -> facts, the speed to expect, and what is wrong."""

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import cast

from codegen_cli.contract.delay import OnDelay
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.contract.version import __version__
from codegen_cli.engine_cpu.compile import kernel_cache, kernel_directory
from codegen_cli.engine_cpu.thread_limit import most_threads
from codegen_cli.hub.entries import BUNDLED
from codegen_cli.machine import cpu, memory, places
from codegen_cli.machine.cores import Cores, usable_cores
from codegen_cli.machine.disturbance import NOTICEABLE_CORES, OtherPrograms
from codegen_cli.measuring.forecast import ReadSpeeds, expected_tokens_per_second, measure_kernels
from codegen_cli.measuring.read_limit import MemoryReader
from codegen_cli.measuring.speed import step_seconds
from codegen_cli.models import settings
from codegen_cli.models.inventory import FormatState, ModelState, all_models
from codegen_cli.models.model_default import is_here
from codegen_cli.models.registry import models_dir_problem
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


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, in a sentence, and what to do; is_broken: codegen cannot work so."""

    sentence: str
    hint: str
    is_broken: bool = False


@dataclass(frozen=True, slots=True)
class Kernels:
    """How the forward pass is computed here, and where its code is kept.

    path          the one taken; None if none can be
    usable        those that this CPU executes, best first
    is_forced     by CODEGEN_KERNELS
    directory     of the compiled code; None if nobody knows where that would be
    is_trusted    whether it is there, and only this user can write to it
    is_kept       whether the code of this state of things lies there, for the next process
    n_files       in the directory, and their bytes
    obstacle      why code cannot be kept there; None if it can be
    """

    path: str | None
    usable: list[str]
    is_forced: bool
    directory: Path | None
    is_trusted: bool
    is_kept: bool
    n_files: int
    bytes: int
    obstacle: UserError | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """One model in one format.

    path               its packed file, if there is one
    memory_bytes       needed to run it
    fits               whether so much is available now; None: not known
    n_threads          that it runs on
    token_bytes        of weights that one token reads
    tokens_per_second  to expect after a short prompt; None where no kernel runs
    """

    name: str
    format: str
    path: Path | None
    memory_bytes: int
    fits: bool | None
    n_threads: int
    token_bytes: int
    tokens_per_second: float | None


@dataclass(slots=True)
class Checkup:
    """All that `codegen doctor` tells.

    reading      how fast n_threads threads read memory, and the kernels their weights
    other_cores  that other programs kept busy while this was measured; None: not known
    """

    versions: dict[str, str]
    cpu_name: str
    cpu_features: list[str]
    kernels: Kernels
    n_threads: int
    threads_reason: str
    memory_bytes: int | None
    memory_available_bytes: int | None
    models_dir: Path | None
    reading: ReadSpeeds
    other_cores: float | None
    forecasts: list[Forecast] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_broken(self) -> bool:
        """Whether codegen cannot work as things are."""
        return any(problem.is_broken for problem in self.problems)


Progress = Callable[[float, float], None]


def examine(
    n_threads: int | None, runs: bool, problems: list[Problem], on_progress: Progress
) -> Checkup:
    """Look at everything and measure what is to be measured, in a few seconds.

    n_threads  None: what a model would run on by default
    runs       what `load_kernels` told, and the problems that it met
    """
    cores, available = usable_cores(), memory.available_bytes()
    n_readers = n_threads or cores.n_threads
    others = OtherPrograms()
    with MemoryReader(n_readers, available) as reader:
        if runs:
            reading = measure_kernels(n_threads, reader, available, on_progress)
        else:
            reading = ReadSpeeds(reader.median_bytes_per_second(_READ_SECONDS))
    other_cores = others.cores()
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
        other_cores=other_cores,
        problems=problems,
    )
    problems += thread_problems(n_readers, cores)
    problems += disturbances(other_cores)
    if runs:
        problems += kernel_problems(checkup.kernels)
    problems += directory_problems()
    problems += default_problems()
    with console.silence():  # what keeps models from being found is a problem above
        states = all_models()
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
    wanted = forced or usable[0]
    path = wanted if wanted in usable else None
    return Kernels(
        path=path,
        usable=usable,
        is_forced=bool(forced),
        directory=directory,
        is_trusted=kernel_directory.is_trusted(),
        is_kept=path is not None and kernel_cache.is_kept(),
        n_files=len(sizes),
        bytes=sum(sizes),
        obstacle=obstacle,
    )


def kernel_problems(kernels: Kernels) -> Iterator[Problem]:
    """Yield what is slow, where kernels run at all, and why compiled code is not kept."""
    if kernels.path is None:
        return
    if kernels.path != kernels.usable[0]:
        yield Problem(
            f"CODEGEN_KERNELS chooses {kernels.path}, which is slower here than "
            f"{kernels.usable[0]}.",
            "Unset CODEGEN_KERNELS.",
        )
    if kernels.is_kept:
        return
    cost = "every start compiles anew, for about 15 seconds"
    if kernels.obstacle:
        reason = _sentence(kernels.obstacle)
        yield Problem(f"Compiled code is not kept, so {cost}. {reason}", kernels.obstacle.hint)
    else:
        yield Problem(
            f"Compiled code is not in {kernels.directory}, so {cost}.",
            "CODEGEN_HOME chooses another place.",
        )


def directory_problems() -> Iterator[Problem]:
    """Yield why models cannot be found, or not be kept, where they should be."""
    if unreadable := models_dir_problem():
        yield Problem(_sentence(unreadable), unreadable.hint)
        return
    directory = places.models_dir()
    place = next(each for each in (directory, *directory.parents) if os.path.lexists(each))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Problem(
            f"Models cannot be kept in {directory}: {place} is not a directory that you can write "
            "to.",
            "Make it one, or let CODEGEN_HOME name another place.",
        )


def default_problems() -> Iterator[Problem]:
    """Yield why no model, or another one, answers where none is named."""
    try:
        with console.silence():  # settings that may not be read are told of by each command
            default = settings.read_default()
    except UserError as error:
        yield Problem(_sentence(error), error.hint, is_broken=True)
        return
    if default is not None and not is_here(default.model):
        yield Problem(
            f"{default.model}, the default model, has gone.",
            "Choose another: codegen models default NAME",
            is_broken=default.is_chosen,
        )


def thread_problems(n_threads: int, cores: Cores) -> Iterator[Problem]:
    """Yield that there are more threads than can run at once."""
    if n_threads > cores.n_at_once:
        yield Problem(
            f"{n_threads} threads are more than can run at once ({cores.reason}): they wait for "
            "each other.",
            "Leave out --threads and unset CODEGEN_THREADS.",
        )


def disturbances(other_cores: float | None) -> Iterator[Problem]:
    """Yield that other programs were at work while speeds were measured."""
    if other_cores is not None and other_cores > NOTICEABLE_CORES:
        yield Problem(
            f"Other programs kept {other_cores:.1f} cores busy while this was measured, so the "
            "speeds are lower than they could be.",
            "Run it again when the machine is idle.",
        )


def damaged_models(states: list[ModelState]) -> Iterator[Problem]:
    """Yield the packed files that cannot be used."""
    for state in states:
        for each in state.formats:
            if each.problem:
                hint = "Pack or import the model again, or remove the file."
                yield Problem(f"{each.problem}.", hint, is_broken=True)


def _sentence(error: UserError) -> str:
    return f"{error.message[:1].upper()}{error.message[1:]}."


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
        return 1 / median(step_seconds(engine, engine.random_cache(), n_past, n_steps))
    finally:
        engine.close()


def memory_problems(forecasts: list[Forecast], available_bytes: int) -> Iterator[Problem]:
    """Yield the packed models that do not fit now, and that no real model does."""
    available = f"{available_bytes / 1e9:.1f} GB are available"
    for each in forecasts:
        if each.path and not each.fits:
            yield Problem(
                f"{each.name}:{each.format} needs {each.memory_bytes / 1e9:.1f} GB of memory, and "
                f"{available}.",
                "End other programs, or use a smaller format or model.",
            )
    real = [each for each in forecasts if each.name != BUNDLED]
    if real and not any(each.fits for each in real):
        least = min(real, key=lambda each: each.memory_bytes)
        yield Problem(
            f"No model but {BUNDLED} fits: {available}.",
            f"End other programs; the smallest, {least.name}:{least.format}, needs "
            f"{least.memory_bytes / 1e9:.1f} GB.",
        )


def _versions() -> dict[str, str]:
    versions = {"codegen": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return versions
