"""What a checkup found -> what is wrong with it, and what to do."""

import os
from collections.abc import Iterator

from codegen_cli.hub.entries import BUNDLED
from codegen_cli.machine import places
from codegen_cli.machine.cores import Cores
from codegen_cli.machine.disturbance import NOTICEABLE_CORES
from codegen_cli.measuring.findings import Forecast, Kernels, Problem
from codegen_cli.measuring.forecast import ReadSpeeds
from codegen_cli.models import settings
from codegen_cli.models.inventory import ModelState
from codegen_cli.models.model_default import is_here
from codegen_cli.models.registry import models_dir_problem
from codegen_cli.terminal import console
from quantize.files.errors import UserError

# A kernel that reads at so small a share of the limit is held up by something else than memory.
_SLOW_SHARE = 0.6
_FASTER = 1.1


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
    cost = "every start compiles anew, for 20 to 60 seconds"
    if kernels.obstacle:
        reason = _sentence(kernels.obstacle)
        yield Problem(f"Compiled code is not kept, so {cost}. {reason}", kernels.obstacle.hint)
    else:
        yield Problem(
            f"Compiled code is not in {kernels.directory}, so {cost}.",
            "CODEGEN_HOME chooses another place.",
        )


def reading_problems(
    reading: ReadSpeeds, prefetches: dict[str, float], kernels: Kernels
) -> Iterator[Problem]:
    """Yield that kernels of the best path read far slower than memory delivers."""
    slow = {
        format: speed / reading.limit
        for format, speed in reading.kernels.items()
        if speed < _SLOW_SHARE * reading.limit
    }
    if not slow or kernels.path != kernels.usable[0] or kernels.prefetch is None:
        return
    shares = ", ".join(f"{format} {share:.2f}" for format, share in slow.items())
    hint = kernels.prefetch.partition(":")[0]
    best = max(prefetches, key=lambda each: prefetches[each])
    advice = "Reading is no faster by another way to prefetch."
    if prefetches[best] > _FASTER * prefetches[hint]:
        advice = f"Reading with prefetch {best} is faster here than with {hint}: try"
        advice = f"{advice} CODEGEN_PREFETCH={best} codegen bench"
    yield Problem(f"Kernels read weights at a share of what this memory gives: {shares}.", advice)


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
