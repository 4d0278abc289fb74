"""Where Triton keeps what it compiles: with the CPU's kernels, in a directory closed to others."""

import contextlib
import os

from codegen_cli.machine import places
from codegen_cli.machine.closed_directory import require_closed
from quantize.files.errors import UserError

_VARIABLE = "TRITON_CACHE_DIR"


def keep_compiled_code() -> None:
    """Have Triton keep its code in our cache, unless the user said where, or it is no safe place.

    To be called before Triton is imported. Without it Triton has a place of its own (~/.triton).
    """
    if _VARIABLE in os.environ:
        return
    with contextlib.suppress(UserError, OSError):
        place = places.cache_dir() / "triton"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_closed(place)
        os.environ[_VARIABLE] = str(place)
