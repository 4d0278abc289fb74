"""New versions of files, staged in a directory -> their places in a tree: all of them, or none."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing_files(tree: Path) -> Iterator[Path]:
    """Give a directory to write new versions to, at the paths that the files have in the tree.

    On success they replace the files there, and otherwise nothing is changed. The directory lies in
    the tree, so that a new version is moved into its place and not copied.
    """
    with tempfile.TemporaryDirectory(dir=tree, prefix=".new-") as scratch:
        staged, kept = Path(scratch) / "staged", Path(scratch) / "kept"
        staged.mkdir()
        yield staged
        _replace(tree, staged, kept)


def _replace(tree: Path, staged: Path, kept: Path) -> None:
    """Move every staged file to its place; put the old ones back if one cannot be moved."""
    paths = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
    for path in paths:  # a full disk is met here, while nothing has changed
        (kept / path).parent.mkdir(parents=True, exist_ok=True)
        if (tree / path).exists():
            shutil.copy2(tree / path, kept / path)
    with contextlib.ExitStack() as undo:
        for path in paths:
            if (kept / path).exists():
                undo.callback((kept / path).replace, tree / path)
            else:
                undo.callback((tree / path).unlink, missing_ok=True)
            (staged / path).replace(tree / path)
        undo.pop_all()
