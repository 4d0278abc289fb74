"""models.toml -> the models that are known: their names, hub repositories and sizes."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from codegen_cli.machine import places
from quantize.files.errors import UserError

BUNDLED = "nano"
"""The model that the package ships."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A hub repository: owner/name, each beginning with a letter or digit."""

_MOST_REVISION_CHARACTERS = 100  # with a name before it and a format after it, it names a file
_REVISION = re.compile(r"(?!.*(\.\.|//|/\.))[A-Za-z0-9_][A-Za-z0-9._/-]*(?<![./])")


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

    name: str  # with @REVISION for another than the one of models.toml
    repository: str  # "owner/name" on the Hugging Face hub; "" for the bundled model
    revision: str = "main"  # a branch, a tag, refs/pr/3, or a commit
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
    """Return the entry that NAME or NAME@REVISION means, in any of the name's spellings, or None.

    There is none of what can be no revision; revision_problem says why.
    """
    name, at, revision = name.partition("@")
    key = name_key(name)
    entry = next((entry for entry in entries() if name_key(entry.name) == key), None)
    if entry is None or not at:
        return entry
    return None if revision_problem(entry, revision) else at_revision(entry, revision)


def at_revision(entry: ModelEntry, revision: str) -> ModelEntry:
    """Return the entry of a model's other revision, called NAME@REVISION.

    Raises UserError as revision_problem says.
    """
    if problem := revision_problem(entry, revision):
        raise problem
    if revision == entry.revision:
        return entry
    return replace(entry, name=f"{entry.name}@{revision}", revision=revision)


def revision_problem(entry: ModelEntry, revision: str) -> UserError | None:
    """Return why a model is not to be had at a revision, without asking the hub; None: it may be.

    It is a text that can be no revision, or another than the entry's name states already; or the
    model is the bundled one, which has none.
    """
    if not is_revision(revision):
        return UserError(
            f"{entry.name}: {revision[:_MOST_REVISION_CHARACTERS]!r} is no revision",
            "A branch, a tag, refs/pr/3 or a whole commit: up to "
            f"{_MOST_REVISION_CHARACTERS} letters, digits, '.', '_', '-' and '/'.",
        )
    if not entry.repository:
        return UserError(f"{entry.name} comes with the program: it has no revisions")
    if "@" in entry.name and revision != entry.revision:
        return UserError(f"{entry.name} is a revision, and {revision} another", "Give one of them.")
    return None


def is_revision(text: str) -> bool:
    """Tell whether a text may be a revision on the hub: a branch, a tag, refs/pr/3, a commit.

    It becomes a part of paths and addresses: no more is let in than git's names need.
    """
    return len(text) <= _MOST_REVISION_CHARACTERS and bool(_REVISION.fullmatch(text))
