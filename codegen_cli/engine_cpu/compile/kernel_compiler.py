"""The kernels as numba knows them -> one object file for this CPU; takes seconds."""

import importlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codegen_cli.engine_cpu.compile.linker import ENTRY, STEP_PROTOTYPE
from codegen_cli.engine_cpu.threads import Step
from codegen_cli.machine import cpu
from quantize.files.errors import UserError

N_FUNCTIONS = 124
"""How many functions numba compiles for the step, of ours and its own; 120 on the generic path."""

# The whole program is then optimized at once, in the time of so many functions.
N_PARTS = N_FUNCTIONS + 16

OnProgress = Callable[[int, int], None]
"""Told how many parts of how many are done."""


def compile_kernels(on_progress: OnProgress = lambda done, total: None) -> bytes:
    """Return the object code of `kernels.step.run_step`, for the kernel path that cpu.py chose.

    Raises UserError where numba cannot be imported, or cannot work.
    """
    machine, module = _optimized(on_progress)
    return bytes(machine.emit_object(module))


def kernel_assembly() -> str:
    """Return what `compile_kernels` makes, as assembly for people to read."""
    machine, module = _optimized(lambda done, total: None)
    return str(machine.emit_assembly(module))


def numba_step() -> Step:
    """Return the step as numba linked it, for a system whose object code we cannot link."""
    step = importlib.import_module("codegen_cli.kernels.step")
    return STEP_PROTOTYPE(step.run_step.address)


def _require_working_directory() -> None:
    """Raise a UserError where numba would fail: it asks for the working directory."""
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(
            f"the kernels cannot be compiled: the working directory: {error.strerror}",
            "Change to another directory.",
        ) from error


@contextmanager
def _counting(on_progress: OnProgress) -> Iterator[None]:
    """Report each function that numba has compiled, in this thread, as a part of the whole work."""
    event = importlib.import_module("numba.core.event")
    thread, n_compiled = threading.get_ident(), 0

    def count(listener: object, what: object) -> None:
        nonlocal n_compiled
        if threading.get_ident() == thread:
            n_compiled += 1
            on_progress(min(n_compiled, N_FUNCTIONS), N_PARTS)

    members = {"on_start": lambda listener, what: None, "on_end": count}
    listener = type("Counter", (event.Listener,), members)()
    with event.install_listener("numba:compile", listener):
        yield


def _with_frame_pointers(llvm_ir: str) -> str:
    """Return the same module, each function of which keeps a frame pointer.

    This lets LLVM align the stack for vectors: it decides that after it has given registers out,
    and needs one for it. Without, vectors lie at multiples of 16 bytes from wherever the caller's
    stack ends, and those across two cache lines cost up to 5 % of a prefill with AVX2.

    llvmlite sets no such attribute, so it is put in where LLVM's text of a function begins.
    """
    first_line = r"^(define .*\)(?: \w*unnamed_addr)?(?: #\d+)?) \{$"
    return re.sub(first_line, r'\1 "frame-pointer"="all" {', llvm_ir, flags=re.MULTILINE)


def _without_stand_ins(llvm_ir: str) -> str:
    """Return the same module with what vector_ir has put aside for another CPU back in place."""
    from codegen_cli.kernels.vector_ir import IN_ORDER, STAND_IN, in_order_constraints

    def assembly(call: re.Match[str]) -> str:
        return f'asm sideeffect "", "{in_order_constraints(call[1], int(call[2]))}"('

    name = rf"@{re.escape(IN_ORDER)}(\w+)\.(\d+)\.\w+\("
    llvm_ir = re.sub(rf"^declare .*{name}.*\n", "", llvm_ir, flags=re.MULTILINE)
    return re.sub(name, assembly, llvm_ir).replace(f"@{STAND_IN}", "@")


def _optimized(on_progress: OnProgress) -> tuple[Any, Any]:
    """Return LLVM's machine for this CPU, and the whole step as one module with one way in.

    numba guards every call with the handling of Python errors and references. As nothing in the
    kernels raises or owns memory, all that falls away once LLVM sees the program as a whole: what
    is left calls nothing but the C library (linker.ALLOWED_SYMBOLS).
    """
    name, features = cpu.target()  # first of all, as it tells when llvmlite is missing
    from llvmlite import binding

    _require_working_directory()
    try:
        importlib.import_module("numba")
    except ImportError as error:  # numba's own words when NumPy is too new for it
        raise UserError(f"numba cannot be imported: {error}", cpu.REINSTALL) from error
    with _counting(on_progress):
        step = importlib.import_module("codegen_cli.kernels.step")
    llvm_ir = step.run_step.inspect_llvm()
    if cpu.is_aimed_elsewhere():
        llvm_ir = _without_stand_ins(llvm_ir)
    module = binding.parse_assembly(_with_frame_pointers(llvm_ir))
    for function in module.functions:
        if function.name == step.run_step.native_name:
            function.name = ENTRY
        elif not function.is_declaration:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    # Position-independent, as the linker may put the code far from the C library; "small", as the
    # code itself is: some hundred kB.
    if cpu.is_aimed_elsewhere():
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(cpu.triple()).create_target_machine(
        cpu=name, features=features, opt=3, reloc="pic", codemodel="small"
    )
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    options = binding.create_pipeline_tuning_options(speed_level=3)
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return machine, module
