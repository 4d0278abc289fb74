"""A model entry -> its checkpoint removed from the Hugging Face cache, by the hub's own client."""

from dataclasses import dataclass
from pathlib import Path

from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.network import settings as hub_settings
from codegen_cli.hub.network.client_import import import_client
from codegen_cli.hub.stored import cache as hub_cache
from codegen_cli.hub.stored.unfinished import is_being_fetched
from quantize.files.errors import UserError


@dataclass(frozen=True, slots=True)
class CheckpointRemoval:
    """A checkpoint that can go, whole or not; removing it gives back so many bytes."""

    directory: Path
    freed_bytes: int


def find_checkpoint(entry: ModelEntry) -> Path:
    """Return the directory of a checkpoint in the cache, complete or not. Raises UserError."""
    directory = hub_cache.snapshot_dir(entry.repository, entry.revision)
    if directory is None:
        raise UserError(
            f"no checkpoint of {entry.name} in {hub_cache.cache_dir()}",
            "HF_HOME or HF_HUB_CACHE may name another cache than when it was downloaded.",
        )
    return directory


def plan_checkpoint_removal(entry: ModelEntry) -> CheckpointRemoval:
    """Return what removing a checkpoint would give back. Raises UserError."""
    directory = find_checkpoint(entry)
    hub_settings.require_importable()
    plan = import_client().plan_removal(directory, left_behind=True)
    return CheckpointRemoval(directory, plan.freed_bytes)


def remove_checkpoint(entry: ModelEntry, *, left_behind: bool = True) -> None:
    """Remove a revision's files and the blobs that no other revision needs.

    left_behind  and the revisions that no branch or tag is at any more

    Raises UserError while a program fetches a file of the repository, and if the system refuses.
    """
    directory = find_checkpoint(entry)
    if is_being_fetched(entry.repository):
        raise UserError(
            f"another program is downloading {entry.repository}", "Wait for it, or end it."
        )
    hub_settings.require_importable()
    import_client().plan_removal(directory, left_behind=left_behind).execute()
    if directory.exists():
        raise UserError(f"cannot remove {directory}", "Check its permissions.")
