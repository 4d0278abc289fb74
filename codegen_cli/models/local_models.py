"""The packed files in the models directory: listed, removed, and taken in from elsewhere."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codegen_cli.hub.entries import BUNDLED, REPOSITORY, is_revision
from codegen_cli.machine import places
from codegen_cli.machine.places import CHOOSE_HOME
from codegen_cli.models.packed_names import name_of, stem_of
from codegen_cli.models.registry import FORMATS, packed_path, split_name
from codegen_cli.terminal import console
from quantize.files.errors import UserError
from quantize.files.whole_file import SHARED, adopting

_FILE_NAME = re.compile(rf"([^.].*)\.({'|'.join(FORMATS)})\.safetensors", re.DOTALL)
_ENDING = rf"(\.({'|'.join(FORMATS)}))?\.safetensors$"
# What an imported model may be called: it becomes a file's name, and a word on command lines.
_MODEL_NAME = re.compile(rf"[^\W_][\w.-]{{0,99}}|(?=.{{3,100}}$){REPOSITORY.pattern}")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One packed file in the models directory, by its name alone; what is in it is not judged."""

    name: str
    format: str
    path: Path

    @property
    def file_bytes(self) -> int:
        """Its size; 0 if it has gone."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def local_files() -> list[LocalFile]:
    """Return the packed files in the models directory, sorted by name and format.

    Raises UserError if the directory cannot be read, or nobody knows where it is.
    """
    matches = [(path, _FILE_NAME.fullmatch(path.name)) for path in _files()]
    files = [LocalFile(name_of(m[1]), m[2], path) for path, m in matches if m]
    return sorted(files, key=lambda file: (file.name, FORMATS.index(file.format)))


def nameless_files() -> list[Path]:
    """Return the files there that may be packed, and whose names are no model's, sorted.

    No command finds them by a name: somebody put them there by hand. There are none where the
    directory cannot be read.
    """
    try:
        files = [path for path in _files() if path.match("[!.]*.safetensors")]
    except UserError:
        return []
    return sorted(path for path in files if not _FILE_NAME.fullmatch(path.name))


def _files() -> list[Path]:
    directory = places.models_dir()
    try:
        return [path for path in directory.iterdir() if path.is_file() or path.is_symlink()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}", CHOOSE_HOME) from error


def readable_files() -> list[LocalFile]:
    """Return local_files(), or with a warning nothing, for work that can do without."""
    try:
        return local_files()
    except UserError as error:
        console.warn(f"{error.message}; {error.hint}")
        return []


def find_local_files(model: str) -> list[LocalFile]:
    """Return the files of "NAME" or "NAME:FORMAT" in the models directory.

    They are picked from the directory's listing: no text that a user writes becomes a path. Raises
    UserError if there are none.
    """
    name, format = split_name(model)
    name = name_of(stem_of(name))
    every = local_files()
    found = [file for file in every if file.name == name and format in (None, file.format)]
    if found:
        return found
    if name == BUNDLED:
        raise UserError("the bundled model belongs to the program and cannot be removed")
    known = ", ".join(f"{file.name}:{file.format}" for file in every)
    raise UserError(
        f"no packed file of {model!r} in {places.models_dir()}",
        f"There are: {known}" if known else "There are no packed models.",
    )


def remove_file(path: Path) -> bool:
    """Remove a packed file; False if it had gone already.

    A process that runs the model keeps the file until it ends; Windows refuses to remove it before.
    Raises UserError if the system refuses.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except PermissionError as error:
        hint = "Is the model running? End that first." if os.name == "nt" else ""
        raise UserError(f"cannot remove {path}: {error.strerror}", hint) from error
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}") from error
    return True


def import_name(wanted: str | None, stated: str, path: Path) -> str:
    """Return what to call an imported model: as wanted, else as the file states, else its name.

    Raises UserError for a name that could not be used with -m, and for the bundled model's.
    """
    name = wanted or stated or re.sub(_ENDING, "", path.name)
    if not _may_be_called(name):
        raise UserError(
            f"a model cannot be called {name[:120]!r}",
            "Choose with --name: letters, digits, '.', '_' and '-', perhaps owner/name or "
            "NAME@REVISION.",
        )
    name = split_name(name)[0]
    if name == BUNDLED:
        raise UserError(f"{BUNDLED} is the bundled model", "Choose another name with --name.")
    return name


def _may_be_called(name: str) -> bool:
    """Tell whether -m could find a model by this name."""
    model, at, revision = name.partition("@")
    is_name = _MODEL_NAME.fullmatch(model) and (not at or is_revision(revision))
    return bool(is_name) and name_of(stem_of(name)) == name


def import_file(
    source: Path, name: str, format: str, *, judge: Callable[[Path], None], replace: bool
) -> Path:
    """Give the models directory a packed file as NAME in FORMAT; return its new path.

    judge    looks at the file that will be the model, and raises if it must not be; nothing is left
             behind then
    replace  whether a file of that name and format may be replaced

    On one disk the file is not copied: both paths name it (a hard link), and either may be removed.
    Nobody sees a part of it. Raises UserError if it exists, or cannot be written.
    """
    target = packed_path(name, format)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and target.samefile(source):
            judge(target)
            return target
        _refuse_existing(target, replace)
        with adopting(source, target, replace=replace, mode=SHARED) as candidate:
            judge(candidate)
    except OSError as error:
        if isinstance(error, FileExistsError):  # another process was faster
            _refuse_existing(target, replace)
        raise UserError(
            f"cannot import {source} as {target}: {error.strerror}", CHOOSE_HOME
        ) from error
    return target


def _refuse_existing(target: Path, replace: bool) -> None:
    if target.exists() and not replace:
        raise UserError(
            f"{target} exists", "Replace it with --force, or choose another name with --name."
        )
