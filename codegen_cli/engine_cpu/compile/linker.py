"""Object code of the kernels -> a function to call; numba is not needed for that."""

import ctypes
import functools
import os

from codegen_cli.engine_cpu.compile.object_file import undefined_symbols
from codegen_cli.engine_cpu.threads import Step

ENTRY = "codegen_run_step"
STEP_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)  # no GIL held

# All that a kernel may call from outside: what LLVM writes for a loop that fills or copies memory,
# and for an operation that a CPU has no instruction for.
ALLOWED_SYMBOLS = frozenset(
    {"memcpy", "memmove", "memset", "bzero", "fma", "fmaf", "roundevenf", "sqrtf", "copysignf"}
)


class ForeignCode(Exception):
    """Object code that asks for more than ALLOWED_SYMBOLS, or that cannot be linked."""


@functools.cache
def link(object_code: bytes) -> Step:
    """Return the step of an object file made by `kernel_compiler`; linked once in a process.

    Raises ForeignCode. The bytes must be known to be our own: LLVM trusts the rest of the format.
    """
    from llvmlite import binding

    try:
        symbols = undefined_symbols(object_code)
    except ValueError as error:
        raise ForeignCode(str(error)) from error
    if foreign := symbols - ALLOWED_SYMBOLS:
        raise ForeignCode(f"it calls {', '.join(sorted(foreign))}")
    binding.initialize_native_target()
    library = binding.JITLibraryBuilder().add_object_img(object_code).export_symbol(ENTRY)
    for name in symbols:
        library.import_symbol(name, _c_function(name))
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
    try:
        tracker = library.link(engine, "kernels")
    except RuntimeError as error:
        raise ForeignCode(str(error)) from error
    # Threads may run the code to the very end of the process: nobody shall free it.
    tracker.detach()
    engine.detach()
    return STEP_PROTOTYPE(tracker[ENTRY])


def _c_function(name: str) -> int:
    """Return the address of a function of the C library; ForeignCode if it has none such."""
    library = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)
    try:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    except AttributeError as error:
        raise ForeignCode(f"this system has no {name}") from error
