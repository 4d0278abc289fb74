"""What a user writes for a model -> a known model, a packed file or a checkpoint.

A name may be written as `350M-mono`, `codegen-350m-mono` or `Salesforce/codegen_350M_mono`, with
another revision after an @ (`350M-mono@refs/pr/3`) and a format after a colon (`350M-mono:int4`).
Anything else is a local path, or a hub repository, with or without them.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from codegen_cli.hub.entries import (
    BUNDLED,
    REPOSITORY,
    ModelEntry,
    at_revision,
    entries,
    known_entry,
    name_key,
    revision_problem,
)
from codegen_cli.machine import places
from codegen_cli.machine.places import CHOOSE_HOME, NoHome
from codegen_cli.models.checkpoint_name import checkpoint_name
from codegen_cli.models.packed_names import stem_of
from quantize.description.formats import MATRIX_FORMATS
from quantize.files.errors import UserError

FORMATS = tuple(sorted(MATRIX_FORMATS, key=lambda format: MATRIX_FORMATS[format].code_bits))
"""Formats of a packed model, the one preferred first: the smallest is the fastest, too."""

MODEL_FILES = (".safetensors", ".bin", ".json")
_LONGEST_SHOWN = 200  # of a text that means no model
WHAT_A_MODEL_IS = (
    "A model is a name such as 350M-mono, a packed file, a checkpoint directory"
    " or owner/name on the hub."
)


@dataclass(frozen=True, slots=True)
class PackedModel:
    """A packed file, ready to run."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class CheckpointModel:
    """A local checkpoint, to be packed first: its directory, or a weight file inside it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that can be downloaded and packed; `packed` is its packed file, if there is one."""

    entry: ModelEntry
    format: str | None  # as the user asked for
    packed: Path | None

    @property
    def name(self) -> str:
        return self.entry.name


ResolvedModel = PackedModel | CheckpointModel | KnownModel


def split_name(model: str) -> tuple[str, str | None]:
    """Return the name and format in "350m-mono:int4", a known name in its canonical spelling.

    The revision in "350M-mono@v1:int4" belongs to the name. Raises UserError for a known name with
    an unknown format.
    """
    name, format = _split_format(model)
    entry = known_entry(name)
    return entry.name if entry else name, format


def name_with_format(name: str, format: str) -> str:
    """Return "350M-mono:int4", what split_name takes apart; a file's name may end in its format."""
    return f"{name.removesuffix(f'.{format}')}:{format}"


def packed_path(name: str, format: str) -> Path:
    """Return where the packed file of a model in a format is kept. Raises NoHome."""
    return places.models_dir() / f"{stem_of(name)}.{format}.safetensors"


def find_packed(name: str, format: str | None) -> Path | None:
    """Return the packed file of a model in the asked or else the preferred format, if it exists.

    There is none where the models directory cannot be looked into; models_dir_problem says why.
    """
    try:
        candidates = [packed_path(name, each) for each in ([format] if format else FORMATS)]
    except NoHome:
        return None
    return next((path for path in candidates if is_there(path)), None)


def models_dir_problem() -> UserError | None:
    """Return what keeps the models directory from being read; None if nothing does.

    That it does not exist yet is no problem.
    """
    try:
        directory = places.models_dir()
        os.scandir(directory).close()
    except NoHome as problem:
        return problem
    except FileNotFoundError:
        return None
    except OSError as error:
        return UserError(f"cannot read {directory}: {error.strerror}", CHOOSE_HOME)
    return None


def is_there(path: Path) -> bool:
    """Tell whether something is at a path; False where that cannot be told."""
    try:
        path.stat()
    except (OSError, ValueError):  # ValueError: a NUL character in the name
        return False
    return True


def resolve(model: str, *, is_default: bool = False) -> ResolvedModel:
    """Return the model to run: `model` is a name, a hub repository or a local path.

    is_default  it is stored as the default: a path is absolute then, and what is not is a name,
                whatever lies in the working directory

    A name without a separator that is known or packed wins over a file of that name in the working
    directory (`./350M-mono` is the file); otherwise, and over NAME@REVISION, an existing path wins.
    What cannot be looked at does not exist, as long as the text may be a name.
    Raises UserError: unknown name or format, missing path, or nothing that could be a model there.
    """
    name, format = _split_format(model)
    may_be_ours = name and not _has_separator(name) and not known_entry(name)
    if may_be_ours and (packed := find_packed(name, format)):
        return PackedModel(packed, name)
    return _resolve(model, is_default=is_default)


def resolve_source(source: str) -> CheckpointModel | KnownModel:
    """Return the checkpoint to pack: as `resolve`, but what is packed already is a UserError."""
    resolved = _resolve(source)
    if isinstance(resolved, PackedModel):
        raise UserError(
            f"{source} is packed already",
            "Pack a checkpoint: a name such as 350M-mono, its directory or its weight file.",
        )
    return resolved


def resolve_download(model: str, revision: str | None = None) -> KnownModel:
    """Return what to download: as `resolve`, at a revision; what is no download is a UserError.

    "350M-mono" with the revision "v1" is "350M-mono@v1"; None: as the text says.
    """
    found = resolve(model)
    if not isinstance(found, KnownModel):
        raise UserError(f"{model} is on this machine: there is nothing to download")
    if revision is None:
        return found
    return _known_model(at_revision(found.entry, revision), found.format)


def _resolve(model: str, *, is_default: bool = False) -> ResolvedModel:
    path = Path(model)
    may_be_path = path.is_absolute() or not is_default
    if may_be_path and _has_separator(model) and is_there(path):
        return _local_model(path)
    name, format = _split_format(model)
    exists = may_be_path and bool(model) and is_there(path)
    if (not exists or "@" not in name) and (entry := known_entry(name)):
        return _registered_model(entry, format)
    if exists:
        return _local_model(path)
    if _is_repository(name):
        return _known_model(_repository_entry(name), format)
    if problem := _wrong_revision(name):
        raise problem
    if _has_separator(model) or model.endswith(MODEL_FILES):
        raise _missing_path(model)
    raise _unknown_model(name)


def _wrong_revision(name: str) -> UserError | None:
    """Return what is wrong with the revision after a known name, if that is what is wrong."""
    name, at, revision = name.partition("@")
    entry = known_entry(name) if at else None
    return revision_problem(entry, revision) if entry else None


def _missing_path(model: str) -> UserError:
    """Return what is wrong with a text that can only be a path."""
    shown = _short(model)
    try:
        Path(model).stat()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            return UserError(f"cannot read {shown}: {error.strerror}", WHAT_A_MODEL_IS)
    except ValueError as error:
        return UserError(f"cannot read {shown!r}: {error}", WHAT_A_MODEL_IS)
    return UserError(f"no such file or directory: {shown}", WHAT_A_MODEL_IS)


def _unknown_model(name: str) -> UserError:
    import difflib

    known = {name_key(entry.name): entry.name for entry in entries()}
    key = name_key(name.partition("@")[0])
    nearest = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hints = [f"Did you mean {' or '.join(known[key] for key in nearest)}?"] if nearest else []
    hints.append(f"Known models: {', '.join(known.values())}.")
    message = f"unknown model '{_short(name)}'"
    if problem := models_dir_problem():  # it may be one of the user's own
        message = f"{message}, as far as can be seen: {problem.message}"
        hints.append(problem.hint)
    return UserError(message, " ".join(hints))


def _short(text: str) -> str:
    """Return a text that a user gave as an error may show it."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _split_format(model: str) -> tuple[str, str | None]:
    """Split "350M-mono:int4"; other colons, as in C:\\models, belong to the name."""
    name, _, suffix = model.rpartition(":")
    if name and suffix.lower() in FORMATS:
        return name, suffix.lower()
    if name and known_entry(name):
        raise UserError(
            f"unknown format {suffix!r} in {model!r}", f"Formats: {', '.join(FORMATS)}."
        )
    return model, None


def _known_model(entry: ModelEntry, format: str | None) -> KnownModel:
    return KnownModel(entry, format, find_packed(entry.name, format))


def _repository_entry(name: str) -> ModelEntry:
    """Return the entry of "owner/name" or "owner/name@revision"."""
    repository, at, revision = name.partition("@")
    entry = ModelEntry(repository, repository=repository)
    return at_revision(entry, revision) if at else entry


def _registered_model(entry: ModelEntry, format: str | None) -> KnownModel | PackedModel:
    if entry.name != BUNDLED:
        return _known_model(entry, format)
    packed = find_packed(entry.name, format)
    bundled = places.bundled_model()
    if packed is None and format and f".{format}." not in bundled.name:
        raise UserError(f"{BUNDLED} does not come as {format}", f"Name it without: {BUNDLED}.")
    return PackedModel(packed or bundled, entry.name)


def _local_model(path: Path) -> PackedModel | CheckpointModel:
    """Judge an existing path by what it holds."""
    from quantize.packed.packed_header import is_packed_file

    if path.is_dir():
        try:
            has_config = (path / "config.json").exists()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", WHAT_A_MODEL_IS) from error
        if not has_config:
            raise UserError(
                f"{path} is not a checkpoint: it has no config.json",
                "A checkpoint directory holds config.json, tokenizer.json and the weights.",
            )
        return CheckpointModel(path, checkpoint_name(path))
    if path.is_file() and not os.access(path, os.R_OK):
        raise UserError(f"cannot read {path}: {os.strerror(errno.EACCES)}", WHAT_A_MODEL_IS)
    if path.is_file() and is_packed_file(path):
        return PackedModel(path, path.name.removesuffix(".safetensors"))
    if path.is_file() and path.name.endswith(MODEL_FILES):
        return CheckpointModel(path, checkpoint_name(path.parent))
    raise UserError(f"{path} is neither a packed model nor a checkpoint's weights", WHAT_A_MODEL_IS)


def _has_separator(text: str) -> bool:
    return "/" in text or os.sep in text


def _is_repository(name: str) -> bool:
    """Tell whether text that names no existing path can be a hub repository, at any revision.

    `out/model.safetensors`, or a name in a directory that can be searched, is a path with a mistake
    in it.
    """
    repository = name.partition("@")[0]
    if not REPOSITORY.fullmatch(repository) or name.endswith(MODEL_FILES):
        return False
    directory = Path(repository).parent
    try:
        return not (directory.is_dir() and os.access(directory, os.X_OK))
    except OSError:
        return True
