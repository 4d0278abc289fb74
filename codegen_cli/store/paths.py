"""Where things lie: environment -> the directories of data and caches, and the files we ship.

Nothing is created here, and no path is checked.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def data_dir() -> Path:
    """Return where settings and packed models are kept: $CODEGEN_HOME, else the user's data."""
    if home := _codegen_home():
        return home
    from platformdirs import user_data_path

    return user_data_path("codegen", appauthor=False)


def cache_dir() -> Path:
    """Return where files that can be made again are kept, such as compiled kernels."""
    if home := _codegen_home():
        return home / "cache"
    from platformdirs import user_cache_path

    return user_cache_path("codegen", appauthor=False)


def models_dir() -> Path:
    """Return the directory of the packed models that `codegen quantize` made."""
    return data_dir() / "models"


def packed_copies_dir() -> Path:
    """Return the directory of the packed copies of checkpoints that were run as they are."""
    return cache_dir() / "packed"


def models_toml() -> Path:
    """Return models.toml: inside the package when installed, beside it in a checkout."""
    packaged = PACKAGE / "models.toml"
    return packaged if packaged.is_file() else PACKAGE.parent / "models.toml"


def bundled_model() -> Path:
    """Return the packed model that the package ships."""
    return PACKAGE / "data" / "nano" / "nano.int8.safetensors"


def _codegen_home() -> Path | None:
    """Return $CODEGEN_HOME as an absolute path; None if it is unset or empty."""
    # Path.expanduser would raise for the ~ of an unknown user.
    home = os.path.expanduser(os.environ.get("CODEGEN_HOME", ""))  # noqa: PTH111
    return Path(home).absolute() if home else None
