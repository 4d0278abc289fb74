"""Where Triton keeps what it compiles: with the CPU's kernels, in a directory closed to others."""

import contextlib
import importlib.util
import json
import os
import re
from pathlib import Path

from codegen_cli.machine import places
from codegen_cli.machine.closed_directory import require_closed
from quantize.files.errors import UserError

_VARIABLE = "TRITON_CACHE_DIR"


_LARGEST_METADATA_BYTES = 1 << 20


def directory() -> Path:
    """Return the place in our cache. Raises NoHome."""
    return places.cache_dir() / "triton"


def keep_compiled_code() -> None:
    """Have Triton keep its code in our cache, unless the user said where, or it is no safe place.

    To be called before Triton is imported. Without it Triton has a place of its own (~/.triton).
    """
    if _VARIABLE in os.environ:
        return
    with contextlib.suppress(UserError, OSError):
        place = directory()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_closed(place)
        os.environ[_VARIABLE] = str(place)


def unused_directories() -> list[Path]:
    """Return the directories there of kernels that the Triton installed here will not load, sorted.

    KEY/NAME.json states the version that compiled KEY/NAME.cubin, of which KEY is a hash too. What
    states none is not judged.
    """
    installed = _installed_version()
    if installed is None:
        return []
    try:
        folders = sorted(path for path in directory().iterdir() if not path.is_symlink())
    except OSError:
        return []
    stated = {folder: {*map(_stated_version, folder.glob("*.json"))} - {""} for folder in folders}
    return [folder for folder, versions in stated.items() if versions and installed not in versions]


def _stated_version(metadata: Path) -> str:
    """Return the version in a kernel's metadata, "" in other files."""
    try:
        if metadata.stat().st_size > _LARGEST_METADATA_BYTES:
            return ""
        fields = json.loads(metadata.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    version = fields.get("triton_version") if isinstance(fields, dict) else None
    return version if isinstance(version, str) else ""


def _installed_version() -> str | None:
    """Return Triton's version without importing it; "none" where it is not installed.

    None where it does not say.
    """
    specification = importlib.util.find_spec("triton")
    if specification is None or specification.origin is None:
        return "none"
    try:
        text = Path(specification.origin).read_text("utf-8", "replace")
    except OSError:
        return None
    match = re.search(r"""^__version__ = ['"](.+)['"]""", text, re.MULTILINE)
    return match[1] if match else None
