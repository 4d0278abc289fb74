"""Data and cache directories -> the files there that nobody needs to keep, and their removal.

copies      checkpoints that were run as they are, packed in the cache; made again when needed
unfinished  parts of packed files that killed runs left; what a live run writes is not among them
download    the same in the hub's cache, of CodeGen checkpoints
kernels     object code that this release does not use on this CPU; compiled again where needed
triton      the same of Triton: directories of what another version of it compiled for a GPU
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codegen_cli.engine_torch import compiler_cache
from codegen_cli.hub.stored.cache import repository_of
from codegen_cli.hub.stored.unfinished import (
    files_of,
    remove_unfinished_download,
    unfinished_downloads,
)
from codegen_cli.machine import places
from codegen_cli.machine.disk_bytes import freed_bytes
from codegen_cli.machine.places import NoHome
from codegen_cli.models.local_models import remove_file
from quantize.files.errors import UserError
from quantize.files.partial_file import abandoned_files, remove_abandoned
from quantize.packed.packed_file import read_packed_file

Kind = Literal["copy", "unfinished", "download", "kernels", "triton"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or directory that can go.

    file_bytes  what that gives back: none of a file that has another name, too
    model       what it holds, "" if it does not say
    """

    kind: Kind
    path: Path
    file_bytes: int
    model: str = ""


def leftovers() -> list[Leftover]:
    """Return all that can go, kind by kind, sorted in each directory.

    There is none where a directory cannot be looked into.
    """
    from codegen_cli.engine_cpu.compile import kernel_cache  # brings NumPy

    try:
        copies_dir, models_dir = places.packed_copies_dir(), places.models_dir()
        copies = sorted(path for path in copies_dir.iterdir() if path.match("*.safetensors"))
    except NoHome:
        return []
    except OSError:
        copies = []
    unfinished = [*abandoned_files(models_dir), *abandoned_files(copies_dir)]
    downloads = unfinished_downloads()
    return [
        *(_leftover("copy", path, _model_name(path)) for path in copies),
        *(_leftover("unfinished", path) for path in unfinished),
        *(
            Leftover("download", path, sum(map(freed_bytes, files_of(path))), repository_of(path))
            for path in downloads
        ),
        *(_leftover("kernels", path) for path in kernel_cache.unused_files()),
        *(_leftover("triton", path) for path in compiler_cache.unused_directories()),
    ]


def remove_leftover(leftover: Leftover) -> bool:
    """Remove it; False if it had gone already, or somebody works on it by now.

    A process that runs a copy keeps it until it ends; Windows refuses to remove it before. Raises
    UserError if the system refuses.
    """
    if leftover.kind == "unfinished":
        return remove_abandoned(leftover.path)
    if leftover.kind == "download":
        return remove_unfinished_download(leftover.path)
    if leftover.kind == "triton":
        return _remove_directory(leftover.path)
    return remove_file(leftover.path)


def _leftover(kind: Kind, path: Path, model: str = "") -> Leftover:
    return Leftover(kind, path, freed_bytes(path), model)


def _remove_directory(path: Path) -> bool:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}") from error
    return True


def _model_name(path: Path) -> str:
    try:
        return read_packed_file(path).name
    except UserError:
        return ""
