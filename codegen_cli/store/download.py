"""A model entry -> its checkpoint's directory in the Hugging Face cache, fetched if need be.

The only module on huggingface_hub. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE
act as in every program that uses the hub.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# HTTPError belongs to the HTTP library that this version of the hub uses, httpx or httpx2.
from huggingface_hub.errors import HTTPError as HttpError  # type: ignore[attr-defined]
from huggingface_hub.utils import tqdm as HubBar  # type: ignore[attr-defined]

from codegen_cli.store.registry import ModelEntry
from quantize.errors import UserError
from quantize.input_file import read_input
from quantize.tokenizer_files import COMPANIONS, TOKENIZER, VOCABULARY

INDEX_SUFFIX = ".index.json"
WEIGHTS = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
"""What holds the weights or lists the files that do; the first that exists is used."""

ANSWER_SECONDS = 10
_LARGEST_INDEX_BYTES = 64 << 20
OFFLINE_HINT = "A checkpoint that you have needs no network: codegen quantize DIRECTORY"
AGAIN_HINT = "Run the same command again; files that are complete are kept."


@dataclass(frozen=True, slots=True)
class DownloadEvent:
    """How far a download is: the file being fetched, and the bytes of all files."""

    file: str
    done_bytes: int
    total_bytes: int


OnEvent = Callable[[DownloadEvent], None]


def cached_checkpoint(entry: ModelEntry) -> Path | None:
    """Return the checkpoint's directory in the cache if all its files are there; asks no network.

    Raises UserError if an index of weight files that lies there cannot be read.
    """
    config = _cached_file(entry, "config.json", entry.revision)
    if config is None:
        return None
    directory = config.parent
    weights = _first_weights(name for name in WEIGHTS if (directory / name).is_file())
    if weights is None:
        return None
    files = [*_companions(path.name for path in directory.iterdir()), weights]
    if weights.endswith(INDEX_SUFFIX):
        files += _shards(directory / weights)
    return directory if all((directory / name).is_file() for name in files) else None


def download(entry: ModelEntry, on_event: OnEvent = lambda event: None) -> Path:
    """Fetch what a checkpoint needs (config, tokenizer, one kind of weights) into the cache.

    Returns its directory; a checkpoint that is complete there is returned without asking the hub.
    Raises UserError: nothing to download, no access, no network, no room, or a broken answer.
    """
    if not entry.repository:
        raise UserError(f"{entry.name} is bundled: there is nothing to download")
    if cached := cached_checkpoint(entry):
        return cached
    # Progress is shown by our caller, and a request that succeeds the second time is not news.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _hub_errors(entry):
        return _fetch_checkpoint(entry, on_event)


def _fetch_checkpoint(entry: ModelEntry, on_event: OnEvent) -> Path:
    info = HfApi().model_info(
        entry.repository, revision=entry.revision, timeout=ANSWER_SECONDS, files_metadata=True
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = [*_companions(sizes), _first_weights(sizes) or WEIGHTS[0]]
    _require_files(entry, files, sizes)
    if files[-1].endswith(INDEX_SUFFIX):
        files += _shards(_fetch_file(entry, files[-1], lambda n_bytes: None))
        _require_files(entry, files, sizes)

    missing_bytes = sum(sizes[name] for name in files if not _cached_file(entry, name, info.sha))
    _require_room(missing_bytes)
    total_bytes = sum(sizes[name] for name in files)
    progress = _Progress(on_event, total_bytes - missing_bytes, total_bytes)
    directories = set()
    for name in files:
        progress.start(name)
        directories.add(_fetch_file(entry, name, progress.advance).parent)
    if len(directories) > 1:
        raise UserError(f"{entry.repository} changed while it was downloaded", AGAIN_HINT)
    return directories.pop()


class _Progress:
    """The bytes of all files, reported as they arrive."""

    def __init__(self, on_event: OnEvent, done_bytes: int, total_bytes: int) -> None:
        self.on_event = on_event
        self.done_bytes = done_bytes
        self.total_bytes = total_bytes
        self.file = ""

    def start(self, file: str) -> None:
        self.file = file
        self.advance(0)

    def advance(self, n_bytes: int) -> None:
        self.done_bytes += n_bytes
        self.on_event(DownloadEvent(self.file, self.done_bytes, self.total_bytes))


def _fetch_file(entry: ModelEntry, name: str, advance: Callable[[int], None]) -> Path:
    """Return a file's path in the cache; `advance` is told of the bytes as they arrive."""

    class ReportingBar(HubBar):
        """The progress bar that the hub drives: it draws nothing and passes the bytes on."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

        # Having these, one bar serves hf_xet, which counts network and file bytes apart.
        def update_transfer(self, n: float | None = 1) -> None: ...

        def set_transfer_postfix_str(self, text: str = "", refresh: bool = True) -> None: ...

    path = hf_hub_download(entry.repository, name, revision=entry.revision, tqdm_class=ReportingBar)
    return Path(path)


def _cached_file(entry: ModelEntry, name: str, revision: str | None) -> Path | None:
    """Return a file's path in the cache, None if it is not there.

    hf_hub_download(local_files_only=True) would do, but it first asks the hub who calls.
    """
    try:
        path = try_to_load_from_cache(entry.repository, name, revision=revision)
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _first_weights(names: Iterable[str]) -> str | None:
    found = set(names)
    return next((name for name in WEIGHTS if name in found), None)


def _shards(index: Path) -> list[str]:
    """Return the weight files that an index lists: names without a directory, sorted.

    The form is transformers': {"weight_map": {tensor name: file name}}.
    """
    try:
        weight_map = json.loads(read_input(index, _LARGEST_INDEX_BYTES))["weight_map"]
        names = sorted(set(weight_map.values()))
        if names and all(PurePosixPath(name).name == name for name in names):
            return names
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(
        f"{index} does not list weight files", 'It must map tensors to files in "weight_map".'
    )


def _companions(names: Iterable[str]) -> list[str]:
    """Return what is needed beside weights: tokenizer.json, or else what it can be built from."""
    there = set(names)
    is_old = TOKENIZER not in there and there.issuperset(VOCABULARY)
    tokenizer = VOCABULARY if is_old else (TOKENIZER,)
    return ["config.json", *tokenizer, *(name for name in COMPANIONS if name in there)]


def _require_files(entry: ModelEntry, names: Iterable[str], sizes: Mapping[str, int]) -> None:
    for name in names:
        if name not in sizes:
            raise UserError(
                f"{entry.repository} has no {name}",
                "A CodeGen checkpoint holds config.json, tokenizer.json and"
                " model.safetensors or pytorch_model.bin, whole or in parts with an index.",
            )


def _require_room(needed_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE).absolute()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > free_bytes:
        raise UserError(
            f"{cache} has room for {free_bytes / 1e6:,.0f} MB,"
            f" the download needs {needed_bytes / 1e6:,.0f} MB",
            "HF_HOME chooses another directory for downloads.",
        )


@contextmanager
def _hub_errors(entry: ModelEntry) -> Iterator[None]:
    """Turn whatever the hub's client raises into a UserError."""
    try:
        yield
    except (HttpError, HFValidationError, json.JSONDecodeError, OSError) as error:
        raise _user_error(entry, error) from error
    except RuntimeError as error:  # hf_xet's network failures
        raise UserError(f"cannot download {entry.repository}: {error}", AGAIN_HINT) from error


def _user_error(entry: ModelEntry, error: BaseException) -> UserError:
    """Return what to tell the user; many of these classes are OSErrors, so the order matters."""
    hub, repository = constants.ENDPOINT, entry.repository
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    match error:
        case GatedRepoError():
            return UserError(
                f"{repository} is gated: its owner grants access",
                f"Ask for it at {hub}/{repository}, then set HF_TOKEN.",
            )
        case RepositoryNotFoundError():
            return UserError(
                f"{hub} has no repository {repository}",
                f"Check the spelling; a private repository needs HF_TOKEN. {OFFLINE_HINT}",
            )
        case RevisionNotFoundError():
            return UserError(f"{repository} has no revision {entry.revision}")
        case OfflineModeIsEnabled():
            return UserError(
                f"{repository} is not in the cache, and HF_HUB_OFFLINE forbids to download it",
                f"Unset HF_HUB_OFFLINE. {OFFLINE_HINT}",
            )
        case HfHubHTTPError():
            return UserError(
                f"{hub} answered {error.response.status_code} for {repository}", AGAIN_HINT
            )
        case HFValidationError():
            return UserError(f"{repository} cannot be a repository: {_first_line(error)}")
        case json.JSONDecodeError():
            return UserError(f"{hub} does not answer as a hub does", "Check HF_ENDPOINT.")
        case OSError(errno=int()):
            return UserError(
                f"cannot store {repository} in {constants.HF_HUB_CACHE}: {error.strerror}",
                "HF_HOME chooses another directory for downloads.",
            )
        case HttpError():
            return UserError(
                f"the connection to {hub} failed: {_first_line(error)}",
                f"Check the network, or HF_ENDPOINT. {OFFLINE_HINT}",
            )
    return UserError(f"cannot download {repository}: {_first_line(error)}", AGAIN_HINT)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
