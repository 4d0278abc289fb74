"""settings.json in the data directory -> the default model and device; the file is optional.

    {"default_model": "350M-mono", "automatic_default": "350M-mono", "default_device": "cuda"}

automatic_default is there if nobody chose: the first model of all became the default by itself. As
it names the model, a default that is written into the file by hand, or by an older release, counts
as chosen.

Reading takes no lock: a reader sees the old file or the whole new one. Two processes that change it
take turns, by filelock: the hub's client brings it along for its own cache, and it knows what a few
lines on fcntl and msvcrt would not, such as file systems without locks.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from codegen_cli.machine import places
from codegen_cli.machine.places import CHOOSE_HOME, NoHome
from codegen_cli.terminal import console
from quantize.files.errors import UserError

DEFAULT_MODEL = "default_model"
AUTOMATIC_DEFAULT = "automatic_default"
DEFAULT_DEVICE = "default_device"
# A change takes milliseconds; whoever holds the lock for longer is stopped or stuck.
LOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Default:
    """The model that commands use without -m; is_chosen: by the user, else it was the first."""

    model: str
    is_chosen: bool = True


def read_default() -> Default | None:
    """Return the default model; None if there is none, or no settings that this user may read.

    Raises UserError if settings.json does not hold what it should.
    """
    return _default_in(_known_settings("no default model is known"))


def default_model() -> str | None:
    """Return the name of the default model, or None; as read_default."""
    default = read_default()
    return default.model if default else None


def set_default_model(model: str) -> None:
    """Make `model` the default, as the user chose; other settings are kept.

    Raises UserError if settings.json cannot be read or written; the old file is then unchanged.
    """
    change_default(lambda old: Default(model))


def set_first_default_model(model: str) -> bool:
    """Make `model` the default if there is none; tell whether it was done. Raises as above."""
    return change_default(lambda old: old or Default(model, is_chosen=False))


def forget_default_model(model: str) -> bool:
    """Have no default any more if it is `model`; tell whether it was. Raises as above."""
    return change_default(lambda old: None if old and old.model == model else old)


def change_default(change: Callable[[Default | None], Default | None]) -> bool:
    """Replace the default by change(default), under the lock; tell whether it is another one."""

    def changed(settings: dict[str, object]) -> dict[str, object]:
        old = _default_in(settings)
        new = change(old)
        if new == old:
            return settings
        kept = {
            key: value
            for key, value in settings.items()
            if key not in (DEFAULT_MODEL, AUTOMATIC_DEFAULT)
        }
        if new is not None:
            kept[DEFAULT_MODEL] = new.model
            if not new.is_chosen:
                kept[AUTOMATIC_DEFAULT] = new.model
        return kept

    return _change(changed)


def default_device() -> str | None:
    """Return the device to compute on by default, or None; as read_default."""
    device = _known_settings("no default device is known").get(DEFAULT_DEVICE)
    if device is None or (isinstance(device, str) and device):
        return device
    raise _broken_settings(f"{DEFAULT_DEVICE} is {device!r}, not a device's name")


def set_default_device(device: str) -> None:
    """Make `device` the default; raises as set_default_model."""
    _change(lambda settings: settings | {DEFAULT_DEVICE: device})


def _change(change: Callable[[dict[str, object]], dict[str, object]]) -> bool:
    """Replace the settings by change(settings), under the lock; tell whether they are others."""
    path = _settings_path()
    try:
        with _locked(path):
            old = _read_settings()
            new = change(old)
            if new == old:
                return False
            _write_settings(path, new)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", CHOOSE_HOME) from error
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on changes of a file: a file of its own, since `path` is replaced."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"cannot change {path}: another process has held {lock.lock_file} "
            f"for {LOCK_SECONDS:.0f} s",
            "Wait for that process, or end it.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _default_in(settings: dict[str, object]) -> Default | None:
    model = settings.get(DEFAULT_MODEL)
    if model is None:
        return None
    if isinstance(model, str) and model:
        return Default(model, is_chosen=settings.get(AUTOMATIC_DEFAULT) != model)
    raise _broken_settings(f"{DEFAULT_MODEL} is {model!r}, not a model's name")


def _known_settings(otherwise: str) -> dict[str, object]:
    """Return the settings; nothing, and say what follows from it, where they may not be read."""
    try:
        return _read_settings()
    except NoHome:
        return {}
    except PermissionError as error:
        console.warn(f"cannot read {error.filename}: {error.strerror}; {otherwise}")
        return {}


def _settings_path() -> Path:
    return places.data_dir() / "settings.json"


def _read_settings() -> dict[str, object]:
    """Return what settings.json holds; nothing where no such file can be found.

    Raises PermissionError for a file that is there, and UserError for what is wrong with it.
    """
    path = _settings_path()
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise _broken_settings("it is not UTF-8 text") from error
    except OSError as error:
        # The file, or a directory on the way to it: False, too, where nobody may look.
        if not os.path.lexists(path):
            return {}
        if isinstance(error, PermissionError):
            raise
        raise UserError(f"cannot read {path}: {error.strerror}", CHOOSE_HOME) from error
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken_settings(f"it is not valid JSON ({error})") from error
    if not isinstance(settings, dict):
        raise _broken_settings("it does not hold a JSON object")
    return settings


def _write_settings(path: Path, settings: dict[str, object]) -> None:
    from quantize.files.whole_file import PRIVATE, replace_files  # most runs only read

    # Of a path, bytes that are no text become escapes, which JSON reads as the same bytes.
    content = f"{json.dumps(settings, indent=2)}\n".encode(errors="backslashreplace")
    replace_files({path: content}, mode=PRIVATE)


def _broken_settings(why: str) -> UserError:
    return UserError(
        f"cannot use {_settings_path()}: {why}",
        "Mend the file or delete it.",
    )
