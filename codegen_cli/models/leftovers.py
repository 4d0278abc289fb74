"""Data and cache directories -> the files there that nobody needs to keep, and their removal.

copies      checkpoints that were run as they are, packed in the cache; made again when needed
unfinished  parts of packed files that killed runs left; what a live run writes is not among them
download    the same in the hub's cache, of CodeGen checkpoints
kernels     object code that this release does not use on this CPU; compiled again where needed
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codegen_cli.hub import cache as hub_cache
from codegen_cli.hub.unfinished import remove_unfinished_download, unfinished_downloads
from codegen_cli.machine import places
from codegen_cli.machine.places import NoHome
from codegen_cli.models.local_models import remove_file
from quantize.files.errors import UserError
from quantize.files.partial_file import abandoned_files, remove_abandoned
from quantize.packed.packed_file import read_packed_file

Kind = Literal["copy", "unfinished", "download", "kernels"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """One file that can go; `model` is what it holds, "" if it does not say."""

    kind: Kind
    path: Path
    file_bytes: int
    model: str = ""


def leftovers() -> list[Leftover]:
    """Return the packed copies and the parts of files and downloads, sorted in each directory.

    There are none where a directory cannot be looked into. Which kernels are left over is for
    engine_cpu.compile.kernel_cache to say.
    """
    try:
        copies_dir, models_dir = places.packed_copies_dir(), places.models_dir()
        copies = sorted(path for path in copies_dir.iterdir() if path.match("*.safetensors"))
    except NoHome:
        return []
    except OSError:
        copies = []
    unfinished = [*abandoned_files(models_dir), *abandoned_files(copies_dir)]
    return [
        *(leftover_at("copy", path, _model_name(path)) for path in copies),
        *(leftover_at("unfinished", path) for path in unfinished),
        *(
            leftover_at("download", path, hub_cache.repository_of(path))
            for path in unfinished_downloads()
        ),
    ]


def remove_leftover(leftover: Leftover) -> bool:
    """Remove a file; False if it had gone already, or somebody works on it by now.

    A process that runs a copy keeps it until it ends; Windows refuses to remove it before. Raises
    UserError if the system refuses.
    """
    if leftover.kind == "unfinished":
        return remove_abandoned(leftover.path)
    if leftover.kind == "download":
        return remove_unfinished_download(leftover.path)
    return remove_file(leftover.path)


def leftover_at(kind: Kind, path: Path, model: str = "") -> Leftover:
    """Return a file as a leftover; of no size if it has gone meanwhile."""
    try:
        return Leftover(kind, path, path.stat().st_size, model)
    except OSError:
        return Leftover(kind, path, 0, model)


def _model_name(path: Path) -> str:
    try:
        return read_packed_file(path).name
    except UserError:
        return ""
