"""models.toml -> the models that are known: their names, hub repositories and sizes."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from codegen_cli.machine import places

BUNDLED = "nano"
"""The model that the package ships."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A hub repository: owner/name, each beginning with a letter or digit."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What all checkpoints of one size share; models.toml explains each number."""

    n_layer: int
    n_embd: int
    n_head: int
    head_dim: int
    rotary_dim: int
    vocab_size: int
    n_positions: int
    parameters: int
    download_bytes: int
    packed_bytes: Mapping[str, int] = field(hash=False)  # by format
    memory_bytes: Mapping[str, int] = field(hash=False)  # by format


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model by its canonical name; `size` is None for a hub repository we know nothing of."""

    name: str
    repository: str  # "owner/name" on the Hugging Face hub; "" for the bundled model
    revision: str = "main"
    licence: str = ""
    family: str = ""
    size: ModelSize | None = None


@functools.lru_cache(maxsize=1)
def entries() -> tuple[ModelEntry, ...]:
    """Return the models of models.toml, in its order."""
    import tomllib

    tables = tomllib.loads(places.models_toml().read_text("utf-8"))
    sizes = {name: ModelSize(**fields) for name, fields in tables["sizes"].items()}
    return tuple(
        ModelEntry(**(fields | {"name": name, "size": sizes[fields["size"]]}))
        for name, fields in tables["models"].items()
    )


def name_key(name: str) -> str:
    """Return what all spellings of a name have in common."""
    key = name.strip().lower().replace("_", "-")
    return key.removeprefix("salesforce/").removeprefix("codegen-")


def known_entry(name: str) -> ModelEntry | None:
    """Return the entry that a name means, in any of its spellings; None if there is none."""
    key = name_key(name)
    return next((entry for entry in entries() if name_key(entry.name) == key), None)
