"""settings.json in the data directory -> the default model, and back; the file is optional.

Reading takes no lock: a reader sees the old file or the whole new one. Two processes that change it
take turns. The only module on filelock: the hub's client brings it along for its own cache, and it
knows what a few lines on fcntl and msvcrt would not, such as file systems without locks.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from codegen_cli.store import paths
from quantize.errors import UserError

DEFAULT_MODEL = "default_model"
# A change takes milliseconds; whoever holds the lock for longer is stopped or stuck.
LOCK_SECONDS = 10.0


def default_model() -> str | None:
    """Return the model that commands use without -m; None if none was chosen.

    Raises UserError if settings.json cannot be read or does not hold what it should.
    """
    return _default_model(_read_settings())


def set_default_model(name: str) -> None:
    """Make `name` the model that commands use without -m; other settings are kept.

    Raises UserError if settings.json cannot be read or written; the old file is then unchanged.
    """
    change_default_model(lambda old: name)


def set_first_default_model(name: str) -> bool:
    """Make `name` the default if there is none; tell whether it was done. Raises as above."""
    return change_default_model(lambda old: old or name)


def forget_default_model(name: str) -> bool:
    """Have no default any more if it is `name`; tell whether it was. Raises as above."""
    return change_default_model(lambda old: None if old == name else old)


def change_default_model(change: Callable[[str | None], str | None]) -> bool:
    """Replace the default by change(default), under the lock; tell whether it is another one."""
    path = _settings_path()
    try:
        with _locked(path):
            settings = _read_settings()
            old = _default_model(settings)
            new = change(old)
            if new == old:
                return False
            settings.pop(DEFAULT_MODEL, None)
            if new is not None:
                settings[DEFAULT_MODEL] = new
            _replace_file(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}",
            "CODEGEN_HOME chooses another directory for settings and models.",
        ) from error
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


def _default_model(settings: dict[str, object]) -> str | None:
    name = settings.get(DEFAULT_MODEL)
    if name is None or (isinstance(name, str) and name):
        return name
    raise _broken_settings(f"{DEFAULT_MODEL} is {name!r}, not a model's name")


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
