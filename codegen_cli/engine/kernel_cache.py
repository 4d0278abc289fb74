"""The compiled step, kept as object code in the user's cache directory for the next process.

    kernels/KEY.sha256    which object a state of sources, compiler and CPU has: "DIGEST  FILE"
    kernels/DIGEST.o      the object code, under the name of its own hash

Cached code is executed, so the directory must be the user's own and closed to others, and an object
is used only if its hash is right. Whatever is in doubt is compiled anew.
"""

import hashlib
import importlib.util
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from codegen_cli.engine import cpu
from codegen_cli.engine.linker import ForeignCode, link
from codegen_cli.engine.threads import Step
from codegen_cli.store import paths

_PACKAGE = Path(__file__).parent.parent


def load_step(on_compile: Callable[[], None]) -> Step:
    """Return the compiled step; call `on_compile` first if that takes seconds of compiling.

    Raises UserError where numba or llvmlite cannot be imported.
    """
    cached = _read()
    if cached is not None:
        try:
            return link(cached)
        except ForeignCode:
            pass
    on_compile()
    from codegen_cli.engine.kernel_compiler import compile_kernels, numba_step

    object_code = compile_kernels()
    try:
        step = link(object_code)
    except ForeignCode:
        return numba_step()
    _write(object_code)
    return step


def directory() -> Path:
    """Return where object code is kept."""
    return paths.cache_dir() / "kernels"


def is_trusted() -> bool:
    """Tell whether the directory exists, belongs to this user, and only this user may write it."""
    try:
        status = directory().lstat()
    except OSError:
        return False
    if os.name == "nt":  # has other means than owner and mode
        return stat.S_ISDIR(status.st_mode)
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def is_kept() -> bool:
    """Tell whether the next process finds object code for this state of things, and trusts it."""
    return _read() is not None


def unused_files() -> list[Path]:
    """Return the files there of other releases and CPUs; [] if the directory is not trusted."""
    if not is_trusted():
        return []
    used = {_pointer().name, f"{_digest_kept()}.o"}
    files = (path for path in directory().iterdir() if path.is_file())
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
    """Keep object code for later processes, if it can be kept safely."""
    try:
        directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_trusted():
            digest = hashlib.sha256(object_code).hexdigest()
            _replace(directory() / f"{digest}.o", object_code)
            _replace(_pointer(), f"{digest}  {digest}.o\n".encode())
    except OSError:
        return


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one step: whoever reads it meanwhile sees the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _pointer() -> Path:
    return directory() / f"{_key()}.sha256"


def _key() -> str:
    """Return what names all that the object code depends on."""
    digest = hashlib.sha256()
    ours = [_PACKAGE / "engine" / name for name in ("cpu.py", "kernel_compiler.py")]
    for source in sorted([*ours, *(_PACKAGE / "kernels").glob("*.py")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    for library in ("numba", "llvmlite"):
        digest.update(_version(library))
    digest.update("\0".join((cpu.kernel_path(), *cpu.target())).encode())
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
