"""A plan to download, and perhaps to pack -> the room that takes on the disks, judged and kept."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codegen_cli.hub.network.client_import import import_client
from codegen_cli.hub.plan import DownloadPlan
from codegen_cli.hub.stored.cache import cache_dir
from codegen_cli.machine.disk_room import are_on_one_disk, free_bytes, reserve
from codegen_cli.terminal import console
from quantize.description.config import parse_config
from quantize.files.errors import UserError
from quantize.files.json_object import parse_json_object
from quantize.files.partial_file import abandoned_files, partial_file, remove_abandoned
from quantize.files.whole_file import PRIVATE
from quantize.packed.sizes import packed_bytes

_LARGEST_CONFIG_BYTES = 1 << 20
_MOST_OTHER_BYTES = 4 << 20  # of a packed file: the header and tokenizer.json, 2 MB in CodeGen's


@dataclass(frozen=True, slots=True)
class DownloadRoom:
    """What a download takes on the disks.

    fetch_bytes   what is still to be fetched takes in the hub's cache
    cache_free    free there
    target        the packed file that is made afterwards, if any
    packed_bytes  its size, about
    target_free   free where it will be
    is_one_disk   whether both are on one disk
    """

    fetch_bytes: int
    cache_free: int
    target: Path | None = None
    packed_bytes: int = 0
    target_free: int = 0
    is_one_disk: bool = False

    def require(self) -> None:
        """Raise a UserError unless all of it fits."""
        fetch, packed = console.size(self.fetch_bytes), console.size(self.packed_bytes)
        if self.fetch_bytes > self.cache_free:
            raise UserError(
                f"{cache_dir()} has room for {console.size(self.cache_free)}, "
                f"the download needs {fetch}",
                "HF_HOME chooses another directory for downloads.",
            )
        if self.target is None:
            return
        if self.is_one_disk and self.fetch_bytes + self.packed_bytes > self.target_free:
            raise UserError(
                f"the checkpoint ({fetch}) and the packed file ({packed}) do not fit together: "
                f"{console.size(self.target_free)} are free on their disk",
                "HF_HOME puts the checkpoint on another disk, CODEGEN_HOME the packed file.",
            )
        if self.packed_bytes > self.target_free:
            raise UserError(
                f"{self.target.parent} has room for {console.size(self.target_free)}, "
                f"the packed file needs {packed}",
                "CODEGEN_HOME chooses another directory for models.",
            )


def room_for(plan: DownloadPlan | None, target: Path | None, packed: int) -> DownloadRoom:
    """Return what a plan takes (None: all is there), with a packed file of so many bytes.

    What killed runs had reserved for that is given back first.
    """
    cache, fetch_bytes = cache_dir(), plan.room_bytes if plan else 0
    if target is None:
        return DownloadRoom(fetch_bytes, free_bytes(cache))
    for place in abandoned_files(target.parent, _room_of(target).name):
        remove_abandoned(place)
    return DownloadRoom(
        fetch_bytes=fetch_bytes,
        cache_free=free_bytes(cache),
        target=target,
        packed_bytes=packed,
        target_free=free_bytes(target),
        is_one_disk=are_on_one_disk(cache, target),
    )


def size_if_packed(plan: DownloadPlan, format: str) -> int:
    """Return about how large a packed file of a plan's checkpoint will be.

    Raises UserError for a config that no CodeGen model has: better before fetching than after.
    """
    size = plan.entry.size
    if size is not None:
        return size.packed_bytes[format] + _MOST_OTHER_BYTES
    content = import_client().read_file(
        plan.entry, plan.commit, "config.json", _LARGEST_CONFIG_BYTES
    )
    where = f"config.json of {plan.entry.repository}"
    config = parse_config(parse_json_object(content, where), where)
    return packed_bytes(config, format) + _MOST_OTHER_BYTES


@contextlib.contextmanager
def reserved(room: DownloadRoom) -> Iterator[None]:
    """Keep the room for a packed file while its checkpoint is fetched, where the system can.

    Raises UserError where there is none any more.
    """
    if room.target is None:
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            room.target.parent.mkdir(parents=True, exist_ok=True)
            _, file = held.enter_context(partial_file(_room_of(room.target), PRIVATE))
            reserve(file, 0, room.packed_bytes)
        except OSError as error:
            raise UserError(
                f"cannot write {room.target}: {error.strerror}",
                "CODEGEN_HOME chooses another directory for models.",
            ) from error
        yield


def _room_of(target: Path) -> Path:
    """Return what keeps a target's room is called after: whoever packs waits for no such file."""
    return target.with_name(f"{target.name}.room")
