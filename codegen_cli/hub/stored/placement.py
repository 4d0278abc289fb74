"""A blob of the hub's cache -> the snapshot's file and the ref by which every program finds it.

As huggingface_hub leaves them: a relative link to the blob, or the blob itself, moved, where no
links can be made; and the commit's hash under the name of the branch or tag. The tests compare both
with the client's own.
"""

import contextlib
import os
import shutil
from pathlib import Path

from quantize.files.partial_file import partial_path


def place(blob: Path, snapshot: Path, name: str, *, links: bool, is_new: bool) -> Path:
    """Give a snapshot its file; return that. Raises OSError.

    links   whether links can be made
    is_new  the blob was fetched just now, so that no other file needs it
    """
    target = snapshot / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not links and is_new:
        blob.replace(target)
        return target
    beside = partial_path(target)
    try:
        if links:
            beside.symlink_to(os.path.relpath(blob, target.parent))
        else:
            shutil.copyfile(blob, beside)
        beside.replace(target)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return target


def write_ref(repository_dir: Path, revision: str, commit: str) -> None:
    """Note at which commit a branch or tag is; a commit itself needs no note. Raises OSError."""
    if revision == commit:
        return
    ref = repository_dir / "refs" / revision
    with contextlib.suppress(OSError):
        if ref.read_text("utf-8") == commit:
            return
    ref.parent.mkdir(parents=True, exist_ok=True)
    beside = partial_path(ref)
    try:
        beside.write_text(commit, "utf-8")
        beside.replace(ref)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
