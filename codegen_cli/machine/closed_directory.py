"""A directory that holds code to be executed -> whether only this user can put any there."""

import os
import stat
from pathlib import Path

from quantize.files.errors import UserError

ELSEWHERE = "CODEGEN_HOME chooses another place."


def require_closed(place: Path) -> None:
    """Raise a UserError for a directory that others could put code into, OSError if it is none."""
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a directory"
        raise UserError(f"{place} is {kind}", ELSEWHERE)
    if os.name == "nt":  # has other means than owner and mode
        return
    if status.st_uid != os.geteuid():
        raise UserError(f"{place} belongs to another user", ELSEWHERE)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"others can write to {place}", f"chmod 700 closes it, or {ELSEWHERE}")
