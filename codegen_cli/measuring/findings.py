"""What a checkup finds: facts of this machine, speeds to expect, and what is wrong."""

from dataclasses import dataclass, field
from pathlib import Path

from codegen_cli.measuring.forecast import ReadSpeeds
from quantize.files.errors import UserError


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
    prefetch      how they ask for what they read next, as "t1:4096"; None if that is not known
    is_prefetch_forced  by CODEGEN_PREFETCH
    directory     of the compiled code; None if nobody knows where that would be
    is_trusted    whether it is there, and only this user can write to it
    is_kept       whether the code of this state of things lies there, for the next process
    n_files       in the directory, and their bytes
    obstacle      why code cannot be kept there; None if it can be
    """

    path: str | None
    usable: list[str]
    is_forced: bool
    prefetch: str | None
    is_prefetch_forced: bool
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


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that PyTorch can use.

    free_bytes, total_bytes  of its memory; None: not known
    copy_bytes_per_second    that a copy within its memory reads and writes
    kernels                  what came of trying the kernel for each format; [] without Triton
    fits                     by format, the models for which its free memory is enough; {} where
                             that is not known
    """

    name: str
    free_bytes: int | None
    total_bytes: int | None
    copy_bytes_per_second: float
    kernels: list[str]
    fits: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Gpus:
    """What there is to compute on beside the CPU.

    driver    whose driver is loaded, as far as that is known without PyTorch
    torch     the version of PyTorch; None: it is not installed
    found     by PyTorch, if it was asked; None: it was not
    obstacle  why it cannot use what was asked for
    """

    driver: str | None
    torch: str | None
    found: list[Gpu] | None = None
    obstacle: str = ""


@dataclass(slots=True)
class Checkup:
    """All that `codegen doctor` tells.

    reading      how fast n_threads threads read memory, and the kernels their weights
    prefetches   how fast they read memory with each way to prefetch; {} where no kernel runs
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
    prefetches: dict[str, float]
    other_cores: float | None
    gpus: Gpus
    forecasts: list[Forecast] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_broken(self) -> bool:
        """Whether codegen cannot work as things are."""
        return any(problem.is_broken for problem in self.problems)
