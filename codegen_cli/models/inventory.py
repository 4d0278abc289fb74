"""Registry, models directory and hub cache -> what there is of each model on this machine."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codegen_cli.hub.entries import BUNDLED, ModelEntry, entries, known_entry
from codegen_cli.hub.stored.cache import whole_checkpoint
from codegen_cli.machine import places
from codegen_cli.models.local_models import LocalFile, readable_files
from codegen_cli.models.memory_need import needed
from codegen_cli.models.registry import (
    FORMATS,
    CheckpointModel,
    KnownModel,
    PackedModel,
    is_there,
    resolve,
)
from quantize.description.config import ModelConfig, config_fields, read_config
from quantize.files.errors import UserError
from quantize.packed.packed_file import read_packed_file
from quantize.packed.sizes import packed_bytes


@dataclass(frozen=True, slots=True)
class FormatState:
    """A model in one format.

    path          its packed file, if there is one
    file_bytes    of the packed file, or what it would have, about
    memory_bytes  needed to run it; None for a file that cannot be used
    problem       why it cannot
    """

    format: str
    path: Path | None
    file_bytes: int
    memory_bytes: int | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ModelState:
    """All that is known of one model, here and in the registry.

    checkpoint  its complete checkpoint on this machine
    formats     those it is packed in and, where its dimensions are known, those it could be
    provenance  of its packed files, by path
    """

    name: str
    entry: ModelEntry | None = None
    checkpoint: Path | None = None
    formats: tuple[FormatState, ...] = ()
    dimensions: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def is_bundled(self) -> bool:
        """Whether it is the model that the package ships."""
        return self.name == BUNDLED

    @property
    def is_packed(self) -> bool:
        """Whether a packed file of it is here."""
        return any(each.path for each in self.formats)


def all_models() -> list[ModelState]:
    """Return the models that can run here, those whose checkpoint is here, then all others."""
    files = readable_files()
    names = dict.fromkeys([*(file.name for file in files), *(entry.name for entry in entries())])
    states = [_named_state(name, _entry(name), files) for name in names]
    return sorted(states, key=lambda state: (not state.is_packed, state.checkpoint is None))


def describe(model: str) -> ModelState:
    """Return what there is of a model, by any text that -m takes.

    Raises UserError for a text that means no model, or a checkpoint that cannot be read.
    """
    resolved = resolve(model)
    if isinstance(resolved, CheckpointModel):
        return _checkpoint_state(resolved)
    if isinstance(resolved, PackedModel) and resolved.path == Path(model):
        return _packed_state(resolved.name, None, None, {resolved.path: ""})
    entry = resolved.entry if isinstance(resolved, KnownModel) else _entry(resolved.name)
    return _named_state(resolved.name, entry, readable_files())


def _entry(name: str) -> ModelEntry | None:
    """Return the entry that has a name, not one of which it is another spelling."""
    entry = known_entry(name)
    return entry if entry and entry.name == name else None


def _named_state(name: str, entry: ModelEntry | None, files: Sequence[LocalFile]) -> ModelState:
    packed = {file.path: file.format for file in files if file.name == name}
    if name == BUNDLED:
        packed[places.bundled_model()] = "int8"
    checkpoint = whole_checkpoint(entry) if entry and entry.repository else None
    return _packed_state(name, entry, checkpoint, packed)


def _packed_state(
    name: str, entry: ModelEntry | None, checkpoint: Path | None, packed: dict[Path, str]
) -> ModelState:
    """packed: files and the formats that their names state ("": see the header)."""
    states, dimensions, provenance = [], _registry_dimensions(entry), {}
    for path, format in packed.items():
        try:
            file = read_packed_file(path)
            file_bytes = path.stat().st_size
        except (UserError, OSError) as error:
            if is_there(path):  # else it was removed meanwhile
                states.append(FormatState(format, path, 0, None, str(error)))
            continue
        need = needed(file.config, file_bytes)
        states.append(FormatState(file.format, path, file_bytes, need.bytes))
        dimensions = _config_dimensions(file.config)
        provenance[str(path)] = file.provenance
    states += _registry_formats(entry, {state.format for state in states})
    states.sort(key=lambda state: FORMATS.index(state.format) if state.format in FORMATS else -1)
    return ModelState(name, entry, checkpoint, tuple(states), dimensions, provenance)


def _checkpoint_state(model: CheckpointModel) -> ModelState:
    directory = model.path if model.path.is_dir() else model.path.parent
    config = read_config(directory / "config.json")
    return ModelState(
        model.name,
        checkpoint=model.path,
        formats=tuple(_possible_formats(config)),
        dimensions=_config_dimensions(config),
    )


def _possible_formats(config: ModelConfig) -> Iterator[FormatState]:
    for format in FORMATS:
        file_bytes = packed_bytes(config, format)
        yield FormatState(format, None, file_bytes, needed(config, file_bytes).bytes)


def _registry_formats(entry: ModelEntry | None, packed: set[str]) -> list[FormatState]:
    """The formats that a known model could be packed in, and is not."""
    if entry is None or entry.size is None or not entry.repository:
        return []
    size = entry.size
    return [
        FormatState(format, None, size.packed_bytes[format], size.memory_bytes[format])
        for format in FORMATS
        if format not in packed
    ]


def _registry_dimensions(entry: ModelEntry | None) -> dict[str, object]:
    if entry is None or entry.size is None:
        return {}
    names = (field.name for field in dataclasses.fields(entry.size))
    left_out = ("download_bytes", "packed_bytes", "memory_bytes")
    return {name: getattr(entry.size, name) for name in names if name not in left_out}


def _config_dimensions(config: ModelConfig) -> dict[str, object]:
    return {**config_fields(config), "head_dim": config.head_dim}
