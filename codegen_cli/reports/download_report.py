"""A plan to download, and its room -> what --dry-run shows, and what is told before it is done."""

from codegen_cli.hub.plan import DownloadPlan
from codegen_cli.hub.stored.cache import cache_dir
from codegen_cli.models.download_room import DownloadRoom
from codegen_cli.models.inventory import ModelState
from codegen_cli.models.registry import FORMATS
from codegen_cli.terminal import console

LIST_HEADERS = ("model", "download", *(f"{format} file" for format in FORMATS), "here")


def facts(plan: DownloadPlan, room: DownloadRoom) -> list[tuple[str, str]]:
    """Return (what, value) rows."""
    rows = [
        ("model", plan.entry.name),
        ("repository", f"{plan.entry.repository} at {plan.commit[:12]}"),
        ("checkpoint", f"{len(plan.files)} files, {console.size(plan.total_bytes)}"),
        ("to fetch", console.size(plan.fetch_bytes)),
        ("into", f"{cache_dir()}, {console.size(room.cache_free)} free"),
    ]
    if plan.kept_bytes:
        rows.insert(4, ("fetched before", console.size(plan.kept_bytes)))
    if room.target is not None:
        same = "the same disk" if room.is_one_disk else f"{console.size(room.target_free)} free"
        rows.append(("packed file", f"{room.target}, {console.size(room.packed_bytes)}, {same}"))
    return rows


def sentence(plan: DownloadPlan, room: DownloadRoom) -> str:
    """Return what is about to be fetched, and where to."""
    kept = f" ({console.size(plan.kept_bytes)} are there)" if plan.kept_bytes else ""
    of = "" if plan.entry.name == plan.entry.repository else f" from {plan.entry.repository}"
    return (
        f"fetching {plan.entry.name}{of}: {console.size(plan.fetch_bytes)}{kept} into "
        f"{cache_dir()}, {console.size(room.cache_free)} free"
    )


def list_row(state: ModelState, begun_bytes: int) -> list[str]:
    """Return the cells under LIST_HEADERS; begun_bytes: of its checkpoint, fetched so far."""
    entry = state.entry
    size = entry.size if entry else None
    here = [each.format for each in state.formats if each.path]
    if state.checkpoint:
        here.insert(0, "checkpoint")
    elif begun_bytes:
        here.insert(0, f"begun: {console.size(begun_bytes)}")
    return [
        state.name,
        console.size(size.download_bytes) if size else "-",
        *(console.size(size.packed_bytes[format]) if size else "-" for format in FORMATS),
        ", ".join(here),
    ]
