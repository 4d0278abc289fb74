"""A checkpoint's directory -> the name of the model in it, with its revision where that is another.

A directory of the hub's cache says which repository and commit it is of; the commit is named by the
branch or tag that is at it there.
"""

import re
from pathlib import Path

from codegen_cli.hub.entries import ModelEntry, at_revision, is_revision, known_entry

_COMMIT = re.compile(r"[0-9a-f]{40}")


def checkpoint_name(directory: Path) -> str:
    """Return the model's name if the directory's says it, else the directory's name."""
    directory = directory.absolute()
    if directory.parent.name == "snapshots":
        return _snapshot_name(directory)
    entry = known_entry(directory.name)
    return entry.name if entry else directory.name


def _snapshot_name(snapshot: Path) -> str:
    """Return what to call models--Salesforce--codegen-350M-mono/snapshots/COMMIT."""
    repository_dir = snapshot.parent.parent
    repository = repository_dir.name.removeprefix("models--").replace("--", "/", 1)
    entry = known_entry(repository) or ModelEntry(repository, repository=repository)
    revisions = _revisions_at(repository_dir / "refs", snapshot.name)
    if entry.revision in revisions:
        return entry.name
    if not revisions and _COMMIT.fullmatch(snapshot.name):
        revisions = [snapshot.name]
    return at_revision(entry, revisions[0]).name if revisions else entry.name


def _revisions_at(refs: Path, commit: str) -> list[str]:
    """Return the branches and tags that are at a commit, sorted; none where that is unreadable."""
    try:
        files = sorted(path for path in refs.rglob("*") if path.is_file())
        at_commit = [path for path in files if path.read_text("utf-8", "replace") == commit]
    except OSError:
        return []
    return [name for path in at_commit if is_revision(name := path.relative_to(refs).as_posix())]
