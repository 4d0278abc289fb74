"""What this CPU is called and can execute: the host's features -> the kernel path to compile.

Or what another CPU can: then the code is to be read, or to be carried there (`aim_at`).
"""

import os
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

from codegen_cli.machine.arm_features import reported_features
from codegen_cli.machine.system_files import lines_of
from quantize.files.errors import UserError

REINSTALL = "Install it again: pip install --force-reinstall numba llvmlite"
"""The hint where what compiles kernels is damaged, or does not fit the installed NumPy."""

_RAISE_LIMIT = "The limit of memory may be too small for it: raise it (ulimit -v), to 1 GB or more."

_AVX2 = frozenset({"avx2", "fma", "f16c"})
_WIDER_THAN_AVX2 = ("avx512", "avx10", "amx")


class KernelPath(NamedTuple):
    """A way to compute dot products of bytes; sums are exact, so all give the same bits.

    architecture  of the CPUs that can run it, as `architecture` has it; None: all
    needs         LLVM features without which it cannot run
    without       prefixes of features that a CPU for which it is the best does not have
    """

    name: str
    architecture: str | None
    needs: frozenset[str]
    without: tuple[str, ...] = ()


# Best first; of the rows of one name, the first that this CPU can run counts.
KERNEL_PATHS = (
    KernelPath("avx512vnni", "x86_64", _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512vnni"}),
    KernelPath("avxvnni", "x86_64", _AVX2 | {"avxvnni"}, _WIDER_THAN_AVX2),
    KernelPath("avxvnni", "x86_64", _AVX2 | {"avx512vl", "avx512vnni"}),
    KernelPath("avx2", "x86_64", _AVX2, (*_WIDER_THAN_AVX2, "avxvnni")),
    KernelPath("i8mm", "aarch64", frozenset({"dotprod", "i8mm"})),
    KernelPath("dotprod", "aarch64", frozenset({"dotprod"}), ("i8mm", "sve", "sme")),
    KernelPath("generic", None, frozenset()),
)


class Aim(NamedTuple):
    """A CPU other than this one, for which a path is the best."""

    path: KernelPath
    architecture: str


_aim: Aim | None = None


def aim_at(path: str, architecture: str | None = None) -> None:
    """Let this process compile for another CPU from now on, whatever the one that it runs on is.

    path          a name in KERNEL_PATHS
    architecture  "x86_64" or "aarch64", where the path has none of its own
    """
    global _aim
    row = next(each for each in KERNEL_PATHS if each.name == path)
    _aim = Aim(row, row.architecture or architecture or _host_architecture())


def is_aimed_elsewhere() -> bool:
    """Tell whether code is compiled that this process could not run."""
    return _aim is not None


def architecture() -> str:
    """Return what LLVM calls the architecture to compile for: "x86_64", "aarch64", ..."""
    return _aim.architecture if _aim else _host_architecture()


def triple() -> str:
    """Return LLVM's name of the system to compile for."""
    return f"{_aim.architecture}-unknown-linux-gnu" if _aim else str(_llvm().get_default_triple())


def kernel_path() -> str:
    """Return the path to compile: CODEGEN_KERNELS if set, else the best this CPU executes.

    Raises UserError for a path that does not exist or that this CPU cannot execute: LLVM would end
    the process without a word.
    """
    if _aim:
        return _aim.path.name
    usable = usable_kernel_paths()
    forced = os.environ.get("CODEGEN_KERNELS")
    if not forced:
        return usable[0]
    if forced not in usable:
        exists = any(path.name == forced for path in KERNEL_PATHS)
        state = "cannot run on this CPU" if exists else "does not exist"
        raise UserError(
            f"CODEGEN_KERNELS={forced}: that kernel path {state}",
            f"Here you can choose {', '.join(usable)}; unset, {usable[0]} is taken.",
        )
    return forced


def usable_kernel_paths() -> list[str]:
    """Return the names of the paths that this CPU executes, best first."""
    return list(dict.fromkeys(path.name for path in _usable()))


def target() -> tuple[str, str]:
    """Return LLVM's name of the CPU to compile for, and its features as "+avx2,-avx512f,...".

    The best path gets all that this CPU has. Another one, which was forced, gets what a CPU has for
    which it is the best, so that what runs here is what runs there.
    """
    if _aim:
        return "", ",".join(f"+{feature}" for feature in sorted(_aim.path.needs))
    binding = _llvm()
    name, usable = kernel_path(), _usable()
    features = _host_features()
    if name == usable[0].name:
        return binding.get_host_cpu_name(), features.flatten()
    if name == "generic":
        return "", ""
    path = next(path for path in usable if path.name == name)
    for feature in features:
        features[feature] = features[feature] and not feature.startswith(path.without)
    return binding.get_host_cpu_name(), features.flatten()


def features_for_numba() -> str:
    """Return this CPU's features as "+dotprod,-i8mm,..."; "" where numba finds them all by itself.

    It makes all that it compiles ready to run here, and asks LLVM alone what this CPU has.
    """
    is_arm64 = _host_architecture() == "aarch64"
    return str(_host_features().flatten()) if is_arm64 else ""


def converts_fp16() -> bool:
    """Tell whether the target has instructions between fp16 and fp32; x86 got them with F16C."""
    return architecture() != "x86_64" or "+f16c" in target()[1].split(",")


def name() -> str:
    """Return what this CPU calls itself, and what LLVM takes it for."""
    binding = _llvm()
    model = next(iter(_models_in_cpuinfo()), platform.processor() or platform.machine())
    return f"{model} ({binding.get_host_cpu_name()})"


def telling_features() -> list[str]:
    """Return the features of this CPU that decide which kernel path it can run, sorted."""
    telling = frozenset().union(*(path.needs for path in KERNEL_PATHS))
    return sorted(telling & _features_here())


def _models_in_cpuinfo() -> list[str]:
    """Return the names of Linux's CPUs; none where it has only numbers for them, as on arm64."""
    fields = (line.partition(":") for line in lines_of(Path("/proc/cpuinfo")))
    return [text.strip() for key, _, text in fields if key.strip() == "model name"]


def _usable() -> list[KernelPath]:
    here = _features_here()
    architectures = (None, _host_architecture())
    return [
        path for path in KERNEL_PATHS if path.architecture in architectures and path.needs <= here
    ]


def _host_architecture() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _features_here() -> frozenset[str]:
    return frozenset(name for name, is_there in _host_features().items() if is_there)


def _host_features() -> Any:
    """Return LLVM's FeatureMap of this CPU: a name -> whether it has that."""
    features = _llvm().get_host_cpu_features()
    if _host_architecture() == "aarch64":
        features.update(reported_features())
    return features


def _llvm() -> Any:
    try:
        from llvmlite import binding
    except (ImportError, OSError) as error:
        hint = _RAISE_LIMIT if _memory_is_limited() else REINSTALL
        raise UserError(f"llvmlite cannot be imported: {error}", hint) from error
    return binding


def _memory_is_limited() -> bool:
    """Tell whether this process may have only so much memory: then no message names the cause."""
    if sys.platform == "win32":
        return False
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
