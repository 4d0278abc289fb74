"""The kernels as numba knows them -> one object file for this CPU; takes seconds."""

import importlib
from typing import Any

from codegen_cli.engine import cpu
from codegen_cli.engine.linker import ENTRY, STEP_PROTOTYPE
from codegen_cli.engine.threads import Step
from quantize.errors import UserError


def compile_kernels() -> bytes:
    """Return the object code of `kernels.step.run_step`, for the kernel path that cpu.py chose.

    Raises UserError where numba cannot be imported.
    """
    machine, module = _optimized()
    return bytes(machine.emit_object(module))


def kernel_assembly() -> str:
    """Return what `compile_kernels` makes, as assembly for people to read."""
    machine, module = _optimized()
    return str(machine.emit_assembly(module))


def numba_step() -> Step:
    """Return the step as numba linked it, for a system whose object code we cannot link."""
    step = importlib.import_module("codegen_cli.kernels.step")
    return STEP_PROTOTYPE(step.run_step.address)


def _optimized() -> tuple[Any, Any]:
    """Return LLVM's machine for this CPU, and the whole step as one module with one way in.

    numba guards every call with the handling of Python errors and references. As nothing in the
    kernels raises or owns memory, all that falls away once LLVM sees the program as a whole: what
    is left calls nothing but the C library (linker.ALLOWED_SYMBOLS).
    """
    name, features = cpu.target()  # first of all, as it tells when llvmlite is missing
    from llvmlite import binding

    try:
        importlib.import_module("numba")
    except ImportError as error:  # numba's own words when NumPy is too new for it
        raise UserError(f"numba cannot be imported: {error}", cpu.REINSTALL) from error
    step = importlib.import_module("codegen_cli.kernels.step")
    module = binding.parse_assembly(step.run_step.inspect_llvm())
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
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=3, reloc="pic", codemodel="small"
    )
    options = binding.create_pipeline_tuning_options(speed_level=3)
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return machine, module
