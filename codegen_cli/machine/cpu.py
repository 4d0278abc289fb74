"""What this CPU is called and can execute: the host's features -> the kernel path to compile."""

import os
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

from codegen_cli.machine.system_files import lines_of
from quantize.files.errors import UserError

REINSTALL = "Install it again: pip install --force-reinstall numba llvmlite"
"""The hint where what compiles kernels is damaged, or does not fit the installed NumPy."""

_RAISE_LIMIT = "The limit of memory may be too small for it: raise it (ulimit -v), to 1 GB or more."

_AVX2 = frozenset({"avx2", "fma", "f16c"})
_WIDER_THAN_AVX2 = ("avx512", "avx10", "amx")


class KernelPath(NamedTuple):
    """A way to compute dot products of bytes; sums are exact, so all give the same bits.

    needs    LLVM features without which it cannot run
    without  prefixes of features that a CPU for which it is the best does not have
    """

    name: str
    needs: frozenset[str]
    without: tuple[str, ...] = ()


# Best first; of the rows of one name, the first that this CPU can run counts.
KERNEL_PATHS = (
    KernelPath("avx512vnni", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"})),
    KernelPath("avxvnni", _AVX2 | {"avxvnni"}, _WIDER_THAN_AVX2),
    KernelPath("avxvnni", _AVX2 | {"avx512vl", "avx512vnni"}),
    KernelPath("avx2", _AVX2, (*_WIDER_THAN_AVX2, "avxvnni")),
    KernelPath("generic", frozenset()),
)


def kernel_path() -> str:
    """Return the path to compile: CODEGEN_KERNELS if set, else the best this CPU executes.

    Raises UserError for a path that does not exist or that this CPU cannot execute: LLVM would end
    the process without a word.
    """
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
    binding = _llvm()
    name, usable = kernel_path(), _usable()
    features = binding.get_host_cpu_features()
    if name == usable[0].name:
        return binding.get_host_cpu_name(), features.flatten()
    if name == "generic":
        return "", ""
    path = next(path for path in usable if path.name == name)
    for feature in features:
        features[feature] = features[feature] and not feature.startswith(path.without)
    return binding.get_host_cpu_name(), features.flatten()


def converts_fp16() -> bool:
    """Tell whether the target has instructions between fp16 and fp32; x86 got them with F16C."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not is_x86 or "+f16c" in target()[1].split(",")


def name() -> str:
    """Return what this CPU calls itself, and what LLVM takes it for."""
    binding = _llvm()
    model = next(iter(_models_in_cpuinfo()), platform.processor() or platform.machine())
    return f"{model} ({binding.get_host_cpu_name()})"


def telling_features() -> list[str]:
    """Return the features of this CPU that decide which kernel path it can run, sorted."""
    telling = frozenset().union(*(path.needs for path in KERNEL_PATHS))
    return sorted(telling & _host_features())


def _models_in_cpuinfo() -> list[str]:
    """Return the names of Linux's CPUs; none where it has only numbers for them, as on arm64."""
    fields = (line.partition(":") for line in lines_of(Path("/proc/cpuinfo")))
    return [text.strip() for key, _, text in fields if key.strip() == "model name"]


def _usable() -> list[KernelPath]:
    host = _host_features()
    return [path for path in KERNEL_PATHS if path.needs <= host]


def _host_features() -> frozenset[str]:
    features = _llvm().get_host_cpu_features()
    return frozenset(name for name, is_there in features.items() if is_there)


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
