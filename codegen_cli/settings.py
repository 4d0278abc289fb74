"""settings.json in the data directory -> the default model, and back; the file is optional."""

import json
import os
import tempfile
from pathlib import Path

from codegen_cli import paths
from quantize.errors import UserError

DEFAULT_MODEL = "default_model"


def default_model() -> str | None:
    """Return the model that commands use without -m; None if none was chosen.

    Raises UserError if settings.json cannot be read or does not hold what it should.
    """
    name = _read_settings().get(DEFAULT_MODEL)
    if name is None or (isinstance(name, str) and name):
        return name
    raise _broken_settings(f"{DEFAULT_MODEL} is {name!r}, not a model's name")


def set_default_model(name: str) -> None:
    """Make `name` the model that commands use without -m; other settings are kept.

    Raises UserError if settings.json cannot be read or written; the old file is then unchanged.
    """
    settings = _read_settings() | {DEFAULT_MODEL: name}
    path = _settings_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}",
            "CODEGEN_HOME chooses another directory for settings and models.",
        ) from error


def _settings_path() -> Path:
    return paths.data_dir() / "settings.json"


def _read_settings() -> dict[str, object]:
    path = _settings_path()
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise _broken_settings("it is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken_settings(f"it is not valid JSON ({error})") from error
    if not isinstance(settings, dict):
        raise _broken_settings("it does not hold a JSON object")
    return settings


def _broken_settings(why: str) -> UserError:
    return UserError(
        f"cannot use {_settings_path()}: {why}",
        "Mend the file or delete it.",
    )


def _replace_file(path: Path, text: str) -> None:
    """Write text to path so that a reader sees the old file or the whole new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
