"""The compiled step, kept as object code in the user's cache directory for the next process.

    kernels/KEY.sha256    which object a state of sources, compiler and CPU has: "DIGEST  FILE"
    kernels/DIGEST.o      the object code, under the name of its own hash
    kernels/KEY.lock      locked by the process that compiles it, while others wait

An object is used only if the directory can be trusted and its hash is right. Whatever is in doubt
is compiled anew; where nothing can be kept, in memory, at every start.
"""

import contextlib
import hashlib
import importlib.util
from pathlib import Path

from codegen_cli.contract.delay import Delay, OnDelay
from codegen_cli.engine_cpu.compile import kernel_directory
from codegen_cli.engine_cpu.compile.kernel_directory import directory, is_trusted
from codegen_cli.engine_cpu.compile.linker import ForeignCode, link
from codegen_cli.engine_cpu.threads import Step
from codegen_cli.machine import arm_features, cpu, prefetch, system_files
from quantize.description import formats
from quantize.files import errors
from quantize.files.errors import UserError

_PACKAGE = Path(__file__).parent.parent.parent
_IMPORTED_BY_KERNELS = (formats, arm_features, cpu, prefetch, system_files, errors)

# What nothing but this process keeps, by _key().
_steps_in_memory: dict[str, Step] = {}


def load_step(on_delay: OnDelay = lambda delay: None) -> Step:
    """Return the compiled step; `on_delay` is told of what takes seconds.

    Raises UserError where numba or llvmlite cannot be imported.
    """
    if step := _kept_step():
        return step
    try:
        place = kernel_directory.require_room()
    except UserError as obstacle:
        if _key() not in _steps_in_memory:
            _steps_in_memory[_key()] = _compiled_step(on_delay, obstacle)[0]
        return _steps_in_memory[_key()]
    lock = place / f"{_key()}.lock"
    with kernel_directory.turn(lock, lambda: on_delay(Delay("waiting"))) as show_life:
        if step := _kept_step():  # by the process that we waited for
            return step

        def on_progress(delay: Delay) -> None:
            show_life()
            on_delay(delay)

        step, object_code = _compiled_step(on_progress)
        if object_code is not None:
            _write(object_code)
        return step


def _kept_step() -> Step | None:
    object_code = _read()
    if object_code is None:
        return None
    try:
        return link(object_code)
    except ForeignCode:
        return None


def _compiled_step(
    on_delay: OnDelay, obstacle: UserError | None = None
) -> tuple[Step, bytes | None]:
    """Compile; return the step and the object code, None where such code cannot be linked here."""
    on_delay(Delay("compiling", obstacle))
    from codegen_cli.engine_cpu.compile.compile_process import compile_apart

    object_code = compile_apart(
        lambda done, total: on_delay(Delay("compiling", obstacle, done, total))
    )
    try:
        return link(object_code), object_code
    except ForeignCode:
        from codegen_cli.engine_cpu.compile.kernel_compiler import numba_step

        return numba_step(), None


def is_kept() -> bool:
    """Tell whether the next process finds object code for this state of things, and trusts it."""
    return _read() is not None


def unused_files() -> list[Path]:
    """Return the files there of other releases and CPUs; [] if the directory is not trusted."""
    if not is_trusted():
        return []
    pointer = _pointer()
    used = {pointer.name, pointer.with_suffix(".lock").name, f"{_digest_kept()}.o"}
    try:
        files = [path for path in directory().iterdir() if path.is_file()]
    except OSError:
        return []
    return sorted(file for file in files if file.name not in used)


def _read() -> bytes | None:
    """Return the object code for this state of things, or None if there is none to rely on."""
    if not is_trusted() or (digest := _digest_kept()) is None:
        return None
    try:
        object_code = (directory() / f"{digest}.o").read_bytes()
    except OSError:
        return None
    return object_code if hashlib.sha256(object_code).hexdigest() == digest else None


def _digest_kept() -> str | None:
    """Return the hash that the object code for this state of things should have, if it is known."""
    try:
        digest, _, name = _pointer().read_text("ascii").strip().partition("  ")
    except (OSError, ValueError):
        return None
    return digest if name == f"{digest}.o" else None


def _write(object_code: bytes) -> None:
    """Keep object code for later processes, if nothing comes in the way after all."""
    from quantize.files.whole_file import PRIVATE, replace_files  # most processes only read

    digest = hashlib.sha256(object_code).hexdigest()
    files = {
        directory() / f"{digest}.o": object_code,
        _pointer(): f"{digest}  {digest}.o\n".encode(),
    }
    with contextlib.suppress(OSError):
        replace_files(files, mode=PRIVATE)


def _pointer() -> Path:
    return directory() / f"{_key()}.sha256"


def sources() -> list[Path]:
    """Return the files that object code is made of: the kernels, and all that they import."""
    imported = [Path(str(module.__file__)) for module in _IMPORTED_BY_KERNELS]
    kernels = (_PACKAGE / "kernels").glob("*.py")
    return sorted([*imported, *kernels, Path(__file__).with_name("kernel_compiler.py")])


def _key() -> str:
    """Return what names all that the object code depends on."""
    digest = hashlib.sha256()
    for source in sources():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    for library in ("numba", "llvmlite"):
        digest.update(_version(library))
    choices = (cpu.kernel_path(), *cpu.target(), str(prefetch.prefetch_choice()))
    digest.update("\0".join(choices).encode())
    return digest.hexdigest()[:32]


def _version(library: str) -> bytes:
    """Return what a release of a library calls itself, without the time that importing it takes."""
    specification = importlib.util.find_spec(library)
    for location in (specification and specification.submodule_search_locations) or ():
        file = Path(location) / "_version.py"
        if file.is_file():
            return file.read_bytes()
    from importlib.metadata import version

    return version(library).encode()
