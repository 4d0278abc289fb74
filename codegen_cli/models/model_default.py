"""Any text that names a model -> what settings keep as the default; and when they let it go."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_cli.hub.entries import BUNDLED
from codegen_cli.models import settings
from codegen_cli.models.registry import (
    CheckpointModel,
    KnownModel,
    PackedModel,
    packed_path,
    resolve,
    split_name,
)
from codegen_cli.terminal import console
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.models.local_models import LocalFile


def default_that_runs() -> str | None:
    """Return the default model; None if there is none, or one that nobody chose has gone.

    Of the latter the user is told: the bundled model will answer. Raises UserError for broken
    settings.
    """
    default = settings.read_default()
    if default is None or default.is_chosen or is_here(default.model):
        return default.model if default else None
    console.warn(
        f"{default.model}, the default model, has gone: {BUNDLED}, the small bundled model, takes "
        "its place; to choose another: codegen models default NAME"
    )
    return None


def is_here(model: str) -> bool:
    """Tell whether a default is packed, or can be packed without asking the hub."""
    try:
        found = resolve(model, is_default=True)
    except UserError:
        return False
    return not isinstance(found, KnownModel) or bool(found.packed) or _is_whole(found)


def default_for(model: str) -> str:
    """Return a name in its canonical spelling, or an absolute path.

    Raises UserError for a text that means no model, and for a model that is not on this machine.
    """
    found = resolve(model)
    if isinstance(found, KnownModel):
        if found.packed is None and not _is_downloaded(found):
            from codegen_cli.models.absence import not_here

            raise not_here(found)
    elif isinstance(found, CheckpointModel) or found.path == Path(model):
        return str(found.path.absolute())
    name, format = split_name(model)
    return f"{name}:{format}" if format else name


def forget_missing_default(removed: "Iterable[LocalFile]") -> str | None:
    """Have no default any more if it named one of these files and names no other; return it then.

    Raises UserError if the settings cannot be read or written.
    """
    default = settings.default_model()
    if default is None:
        return None
    gone = {file.path for file in removed}
    if not _could_run(default) & gone or _runs_now(default):
        return None
    return default if settings.forget_default_model(default) else None


def _is_downloaded(model: KnownModel) -> bool:
    from codegen_cli.hub.stored.cache import cached_checkpoint

    return cached_checkpoint(model.entry) is not None


def _is_whole(model: KnownModel) -> bool:
    from codegen_cli.hub.stored.cache import whole_checkpoint

    return whole_checkpoint(model.entry) is not None


def _could_run(model: str) -> set[Path]:
    """Return the paths that a default would look for."""
    from codegen_cli.models.registry import FORMATS

    name, format = split_name(model)
    named = {packed_path(name, each) for each in ([format] if format else FORMATS)}
    return named | {Path(model)}


def _runs_now(model: str) -> bool:
    try:
        found = resolve(model)
    except UserError:
        return False
    if isinstance(found, KnownModel):
        return found.packed is not None
    return isinstance(found, PackedModel | CheckpointModel)
