"""Where things lie: environment -> the directories of data and caches, and the files we ship.

Nothing is created here, and no path is checked.
"""

import os
from pathlib import Path
from typing import Literal

from quantize.files.errors import UserError

PACKAGE = Path(__file__).parent.parent

CHOOSE_HOME = "CODEGEN_HOME chooses another directory for models, settings and caches."
"""The hint where a directory of the user's cannot be used."""


class NoHome(UserError):
    """Nobody knows where this user's files are; where nothing there is as good, it is caught."""


def data_dir() -> Path:
    """Return where settings and packed models are kept: $CODEGEN_HOME, else the user's data.

    Raises NoHome.
    """
    return _codegen_home() or _user_dir("data")


def cache_dir() -> Path:
    """Return where files that can be made again are kept, such as compiled kernels.

    Raises NoHome.
    """
    home = _codegen_home()
    return home / "cache" if home else _user_dir("cache")


def models_dir() -> Path:
    """Return the directory of the packed models that `codegen quantize` made. Raises NoHome."""
    return data_dir() / "models"


def find_models_dir() -> Path | None:
    """Return models_dir(), or None if nobody knows where it is."""
    try:
        return models_dir()
    except NoHome:
        return None


def packed_copies_dir() -> Path:
    """Return the directory of packed copies, of checkpoints run as they are. Raises NoHome."""
    return cache_dir() / "packed"


def is_ours(directory: Path) -> bool:
    """Tell whether a directory is the one of models or of packed copies."""
    try:
        return directory.absolute() in (models_dir(), packed_copies_dir())
    except (NoHome, OSError):  # OSError: the working directory has gone
        return False


def models_toml() -> Path:
    """Return models.toml: inside the package when installed, beside it in a checkout."""
    packaged = PACKAGE / "models.toml"
    return packaged if packaged.is_file() else PACKAGE.parent / "models.toml"


def bundled_model() -> Path:
    """Return the packed model that the package ships."""
    return PACKAGE / "data" / "nano" / "nano.int8.safetensors"


def _codegen_home() -> Path | None:
    """Return $CODEGEN_HOME as an absolute path; None if it is unset or empty. Raises NoHome."""
    home = os.environ.get("CODEGEN_HOME")
    if not home:
        return None
    try:
        return Path(home).expanduser().absolute()
    except RuntimeError as error:  # the ~ of an unknown user
        raise NoHome(
            f"CODEGEN_HOME is {home}, and there is no such user",
            "CODEGEN_HOME must name a directory.",
        ) from error
    except OSError as error:  # the working directory has gone
        raise NoHome(
            f"CODEGEN_HOME is {home}, in a working directory that is gone",
            "CODEGEN_HOME must name a directory from / on.",
        ) from error


def _user_dir(kind: Literal["data", "cache"]) -> Path:
    from platformdirs import user_cache_path, user_data_path

    find = user_data_path if kind == "data" else user_cache_path
    try:
        return find("codegen", appauthor=False)
    except RuntimeError as error:
        home = os.environ.get("HOME")
        found = f"HOME is {home!r}, no absolute path" if home else "this user has no home directory"
        raise NoHome(
            found, "CODEGEN_HOME chooses a directory for models, settings and caches."
        ) from error
