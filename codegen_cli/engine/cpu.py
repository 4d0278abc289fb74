"""What this machine offers a forward pass: cores to run on, and which dot product instruction."""

import os

from quantize.errors import UserError

# Kernel paths, best first, each with the LLVM feature sets of which it needs one. They differ in
# how a dot product of bytes is computed; integer sums are exact, so results are the same bits.
KERNEL_PATHS: dict[str, tuple[frozenset[str], ...]] = {
    "avx512vnni": (frozenset({"avx512f", "avx512bw", "avx512vnni"}),),
    "avxvnni": (frozenset({"avx2", "avxvnni"}), frozenset({"avx512vl", "avx512vnni"})),
    "generic": (frozenset(),),
}


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        state = "cannot run on this CPU" if forced in KERNEL_PATHS else "does not exist"
        raise UserError(
            f"CODEGEN_KERNELS={forced}: that kernel path {state}",
            f"Here you can choose {', '.join(usable)}; unset, {usable[0]} is taken.",
        )
    return forced


def usable_kernel_paths() -> list[str]:
    """Return the paths that this CPU executes, best first."""
    from llvmlite import binding

    host = {name for name, is_there in binding.get_host_cpu_features().items() if is_there}
    return [
        path
        for path, alternatives in KERNEL_PATHS.items()
        if any(needed <= host for needed in alternatives)
    ]
