"""The Hugging Face cache -> what lies there of a repository, without the hub's client.

    models--OWNER--NAME/
        refs/REVISION                    the commit that a branch or tag was at
        snapshots/COMMIT/FILE         -> ../../blobs/HASH; the file itself where no links are made
        blobs/HASH                       named by its content (content_hash.py)
        blobs/HASH.codegen.incomplete    a part of it (part.py); other programs' have other names
    .locks/models--OWNER--NAME/HASH.lock held by the program that fetches it

The client takes a quarter of a second to import, and refuses to be where a setting is wrong that
only downloads need. The tests hold this module to the client's own constants and answers.
"""

import os
from pathlib import Path

from codegen_cli.hub.checkpoint_files import files_of_checkpoint
from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.stored.content_hash import is_hash
from quantize.files.errors import UserError

AGAIN_HINT = "Run the same command again: it goes on with what is there."

_PREFIX = "models--"
_MOST_REF_BYTES = 1000


def cache_dir() -> Path:
    """Return the directory of all repositories, as the hub's client finds it; it need not exist."""
    return Path(stated_cache_dir()).absolute()


def stated_cache_dir() -> str:
    """Return it as the environment states it; it begins with ~ if a home directory is unknown.

    HF_HUB_CACHE, or HUGGINGFACE_HUB_CACHE, or hub in HF_HOME; an empty variable counts as unset.
    """
    stated = _variable("HF_HUB_CACHE") or _variable("HUGGINGFACE_HUB_CACHE")
    return _expanded(stated) if stated else str(Path(hub_home(), "hub"))


def hub_home() -> str:
    """Return the directory of all that the hub's client keeps: HF_HOME, else the user's cache."""
    caches = _variable("XDG_CACHE_HOME") or str(Path("~", ".cache"))
    return _expanded(_variable("HF_HOME") or str(Path(caches, "huggingface")))


def _variable(name: str) -> str:
    """Return a variable's value, "" if it is blank."""
    text = os.environ.get(name, "")
    return text if text.strip() else ""


def _expanded(path: str) -> str:
    # Path.expanduser would raise for the ~ of an unknown user.
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111


def repository_dir(repository: str) -> Path | None:
    """Return where the files of "owner/name" would be; None for what the hub allows no repository.

    Two dashes stand for the slash.
    """
    if not repository or "--" in repository or ".." in repository:
        return None
    return cache_dir() / f"{_PREFIX}{repository.replace('/', '--')}"


def snapshot_dir(repository: str, revision: str) -> Path | None:
    """Return the directory of a revision's files if it exists: a branch, a tag or a commit."""
    directory = repository_dir(repository)
    if directory is None:
        return None
    try:
        ref = directory / "refs" / revision
        if ref.is_file():
            with ref.open("rb") as file:
                revision = os.fsdecode(file.read(_MOST_REF_BYTES))
        # Picked from the listing: what a file says becomes no path.
        return next(path for path in (directory / "snapshots").iterdir() if path.name == revision)
    except (OSError, StopIteration):  # what cannot be read is not there
        return None


def cached_commit(repository: str, revision: str) -> str | None:
    """Return the commit that a branch or tag was at, if files of that are there."""
    directory = snapshot_dir(repository, revision)
    return directory.name if directory else None


def cached_file(repository: str, name: str, revision: str) -> Path | None:
    """Return a file's path in the cache; None if it is not there, or a link to nothing."""
    directory = snapshot_dir(repository, revision)
    try:
        return directory / name if directory and (directory / name).is_file() else None
    except OSError:
        return None


def cached_checkpoint(entry: ModelEntry) -> Path | None:
    """Return the checkpoint's directory in the cache if all its files are there; asks no network.

    Raises UserError if an index of weight files that lies there cannot be read.
    """
    directory = snapshot_dir(entry.repository, entry.revision)
    if directory is None:
        return None
    try:
        names = files_of_checkpoint(directory)
        is_whole = names is not None and all((directory / name).is_file() for name in names)
    except OSError:
        return None
    except UserError as error:
        raise UserError(error.message, again_hint(entry.name)) from error
    return directory if is_whole else None


def whole_checkpoint(entry: ModelEntry) -> Path | None:
    """Return the same; with a broken index it is not whole, and whoever needs it is told why."""
    try:
        return cached_checkpoint(entry)
    except UserError:
        return None


def problem_of(entry: ModelEntry) -> UserError | None:
    """Return what keeps the cache from being looked into for a model; None if nothing does.

    That nothing of the model is there is no problem.
    """
    directory = repository_dir(entry.repository)
    if directory is None:
        return None
    snapshot = snapshot_dir(entry.repository, entry.revision)
    for place in (directory / "refs", directory / "snapshots", *([snapshot] if snapshot else [])):
        try:
            os.scandir(place).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            return UserError(
                f"cannot read {place}: {error.strerror}",
                "HF_HOME or HF_HUB_CACHE chooses another cache.",
            )
    return None


def blob_of(file: Path) -> Path | None:
    """Return the blob that a snapshot's file is a link to; None where it is no such link.

    One link is followed: the blob itself may be one, to a store that repositories share.
    """
    file = file.absolute()
    try:
        blob = Path(os.path.normpath(file.parent / file.readlink()))
        blobs = _repository_of_snapshot(file.parent) / "blobs"
        return blob if blob.parent.resolve() == blobs.resolve() else None
    except OSError:
        return None


def hash_of_name(file: Path) -> str:
    """Return the hash that a snapshot's file should have, as its blob's name states it, else ""."""
    blob = blob_of(file)
    return blob.name if blob and is_hash(blob.name) else ""


def is_snapshot(directory: Path) -> bool:
    """Tell whether a directory is one of a hub's cache, this one or another."""
    directory = directory.absolute()
    return directory.parent.name == "snapshots" and bool(repository_of(directory))


def repository_of(snapshot: Path) -> str:
    """Return "owner/name" of a snapshot's directory, "" if it is none."""
    folder = _repository_of_snapshot(snapshot.absolute()).name
    return folder.removeprefix(_PREFIX).replace("--", "/") if folder.startswith(_PREFIX) else ""


def repair_hint(snapshot: Path) -> str:
    """Return the command that fetches what is damaged in a snapshot."""
    cache = _repository_of_snapshot(snapshot.absolute()).parent
    place = "" if cache.resolve() == cache_dir().resolve() else f"HF_HUB_CACHE={cache} "
    return again_hint(repository_of(snapshot), place)


def again_hint(name: str, place: str = "") -> str:
    """Return the command that compares a model's files with the hub's and fetches what differs."""
    return f"Fetch it again: {place}codegen download --force {name}"


def _repository_of_snapshot(snapshot: Path) -> Path:
    return snapshot.parent.parent


def remove_file(file: Path) -> None:
    """Remove a snapshot's file with its blob: a damaged one, so that it is fetched again.

    So goes what else leads to that blob: other revisions' links, and a store's payload that several
    repositories share, which is as damaged. Raises UserError if the system refuses.
    """
    blob = blob_of(file)
    try:
        file.unlink(missing_ok=True)
        if blob is not None:
            for link in _links_to(blob):
                link.unlink(missing_ok=True)
            if blob.is_symlink() and blob.resolve().is_relative_to(cache_dir().resolve()):
                blob.resolve().unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot remove {file}, which is damaged: {error.strerror}", "Remove it by hand."
        ) from error


def remove_unshared(file: Path) -> None:
    """Remove a snapshot's file, and its blob unless another revision needs that.

    Raises UserError if the system refuses.
    """
    blob = blob_of(file)
    try:
        file.unlink(missing_ok=True)
        if blob is not None and not _links_to(blob):
            blob.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {file}: {error.strerror}", "Remove it by hand.") from error


def _links_to(blob: Path) -> list[Path]:
    snapshots = blob.parent.parent / "snapshots"
    return [link for link in snapshots.glob("*/*") if blob_of(link) == blob]
