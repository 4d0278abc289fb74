"""A model's name <-> the stem of the file that holds it packed.

owner/name is owner--name, as in the hub's cache; 350M-mono@refs/pr/3 is 350M-mono@refs~pr~3, since
no git revision holds a ~, but one may hold two dashes.
"""

from codegen_cli.hub.entries import REPOSITORY, is_revision, known_entry


def stem_of(name: str) -> str:
    """Return the stem of a model's packed files: without a separator, whatever the name holds."""
    model, at, revision = name.partition("@")
    return f"{model.replace('/', '--')}{at}{revision.replace('/', '~')}"


def name_of(stem: str) -> str:
    """Return the model's name that a file's stem states; stem_of makes the stem of it again."""
    model, at, revision = stem.partition("@")
    name, revision = _repository_name(model), revision.replace("~", "/")
    if not at:
        return name
    may_have_revisions = name != model or known_entry(model)
    return f"{name}@{revision}" if may_have_revisions and is_revision(revision) else stem


def _repository_name(stem: str) -> str:
    name = stem.replace("--", "/", 1)
    return name if REPOSITORY.fullmatch(name) else stem
