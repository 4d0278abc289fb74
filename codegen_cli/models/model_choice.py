"""The -m option -> a packed file that can run now; a local checkpoint is packed where need be."""

import contextlib
import hashlib
from pathlib import Path

from codegen_cli.contract.deadline import Deadline
from codegen_cli.hub.entries import BUNDLED
from codegen_cli.machine import places
from codegen_cli.models.registry import (
    CheckpointModel,
    KnownModel,
    PackedModel,
    is_there,
    packed_path,
    resolve,
)
from codegen_cli.terminal import console
from quantize.description.formats import DEFAULT_FORMAT
from quantize.files.errors import UserError
from quantize.files.input_file import unreadable


def choose_model(model: str | None, deadline: Deadline = None) -> PackedModel:
    """Return the packed model to run.

    model   what the user asked for; None: the default, else the bundled model

    Raises UserError: an unknown name, or a model that is not on this machine; TimeUp while packing.
    """
    if model:
        return _packed_model(model, deadline)
    from codegen_cli.models.model_default import default_that_runs  # not for a model by name

    model = default_that_runs()
    if model is None:
        console.tip(
            f"answering with {BUNDLED}, the small bundled model; for a real one:\n"
            "  codegen download 350M-mono --format int4  (-q hides this)"
        )
        return _packed_model(BUNDLED, deadline)
    try:
        return _packed_model(model, deadline, is_default=True)
    except UserError as error:
        hint = f"{model} is the default model; choose another: codegen models default NAME"
        raise UserError(error.message, f"{error.hint}  ({hint})" if error.hint else hint) from error


def _packed_model(model: str, deadline: Deadline, *, is_default: bool = False) -> PackedModel:
    resolved = resolve(model, is_default=is_default)
    if isinstance(resolved, KnownModel):
        return _run_known(resolved, deadline)
    if isinstance(resolved, CheckpointModel):
        return _run_checkpoint(resolved, deadline)
    return resolved


def _run_known(model: KnownModel, deadline: Deadline) -> PackedModel:
    if model.packed is not None:
        return PackedModel(model.packed, model.name)
    from codegen_cli.hub.stored.cache import cached_checkpoint

    checkpoint = cached_checkpoint(model.entry)
    if checkpoint is None:
        from codegen_cli.models.absence import not_here

        raise not_here(model)
    format = model.format or DEFAULT_FORMAT
    return _pack_once(checkpoint, model.name, format, packed_path(model.name, format), deadline)


def _run_checkpoint(model: CheckpointModel, deadline: Deadline) -> PackedModel:
    """Pack a local checkpoint into the cache, again only when its files have changed."""
    directory = model.path if model.path.is_dir() else model.path.parent
    state = [str(model.path.absolute())]
    try:
        files = sorted(directory.iterdir())
    except OSError as error:
        raise unreadable(directory, error) from error
    for file in files:
        # What cannot be looked at, such as a link to nothing, is no file of the checkpoint.
        with contextlib.suppress(OSError):
            status = file.stat()
            state.append(f"{file.name} {status.st_size} {status.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(state).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    target = places.packed_copies_dir() / f"{digest}.{DEFAULT_FORMAT}.safetensors"
    return _pack_once(model.path, model.name, DEFAULT_FORMAT, target, deadline)


def _pack_once(
    source: Path, name: str, format: str, target: Path, deadline: Deadline
) -> PackedModel:
    if not is_there(target):
        from codegen_cli.models.packing import pack

        pack(source, name, format, target, deadline)
    return PackedModel(target, name)
