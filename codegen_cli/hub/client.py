"""The hub's client, in three calls: read what a repository holds, fetch a file, plan a removal.

To be imported once settings.py finds nothing wrong. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN
and HF_HUB_OFFLINE act as in every program that uses the hub.
"""

import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Where no links can be made, our own commands say what that means.
os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated variables, told of to every user of its programs
    from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
    from huggingface_hub.utils import tqdm as HubBar  # type: ignore[attr-defined]

from codegen_cli.hub import cache as hub_cache
from codegen_cli.hub import settings as hub_settings
from codegen_cli.hub.content_hash import is_hash
from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.errors import first_line, hub_errors
from codegen_cli.terminal import console
from quantize.files.errors import UserError

ANSWER_SECONDS = 10

_WAIT = re.compile(r"Waiting ([\d.]+)s before retry")


class _WaitNotes(logging.Handler):
    """Tells of the client's log that the hub wants it to wait; that may be an hour.

    Progress is shown by our callers, and a request that succeeds the second time is not news.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if match := _WAIT.search(record.getMessage()):
            console.note(f"the hub asks to wait {float(match[1]):.0f} s")


_log = logging.getLogger("huggingface_hub")
_log.handlers, _log.propagate = [_WaitNotes()], False
_log.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class HubFile:
    """What the hub states of a file: its bytes, and the hash of its content ("": none)."""

    file_bytes: int
    hash: str


@dataclass(frozen=True, slots=True)
class HubRepository:
    """What the hub states of a repository at a revision: the commit, and the files by name."""

    commit: str
    files: Mapping[str, HubFile]


def read_repository(entry: ModelEntry) -> HubRepository:
    """Ask the hub what a model's repository holds. Raises UserError."""
    with hub_errors(entry):
        try:
            get_session()
        except Exception as error:  # of its HTTP library, of ssl, or of a missing package
            raise _no_client(error) from error
        return _ask(entry)


def _ask(entry: ModelEntry) -> HubRepository:
    info = HfApi().model_info(
        entry.repository, revision=entry.revision, timeout=ANSWER_SECONDS, files_metadata=True
    )
    if not (isinstance(info.sha, str) and info.sha.isalnum() and info.siblings is not None):
        raise TypeError("no commit, or no list of files")
    files = {}
    for file in info.siblings:
        stated = file.lfs.sha256 if file.lfs else file.blob_id
        size = file.size or 0
        if not (isinstance(file.rfilename, str) and isinstance(size, int)):
            raise TypeError("a file without a name, or with a size that is no number")
        files[file.rfilename] = HubFile(max(size, 0), stated if stated and is_hash(stated) else "")
    return HubRepository(info.sha, files)


def _no_client(error: BaseException) -> UserError:
    variables = [*hub_settings.proxy_variables(), *hub_settings.certificate_variables()]
    return UserError(
        f"the hub's client cannot make connections: {first_line(error)}",
        f"Check {', '.join(variables)}." if variables else "Check the proxy and certificates.",
    )


def fetch_file(
    entry: ModelEntry, name: str, advance: Callable[[int], None], *, anew: bool = False
) -> Path:
    """Return a file's path in the cache, fetched if need be. Raises UserError.

    advance  is told of the bytes as they arrive
    anew     fetch it though it, or what other repositories share of it, is there
    """

    class ReportingBar(HubBar):
        """The progress bar that the hub drives: it draws nothing and passes the bytes on."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

        # Having these, one bar serves hf_xet, which counts network and file bytes apart.
        def update_transfer(self, n: float | None = 1) -> None: ...

        def set_transfer_postfix_str(self, text: str = "", refresh: bool = True) -> None: ...

    with hub_errors(entry):
        path = hf_hub_download(
            entry.repository,
            name,
            revision=entry.revision,
            cache_dir=hub_cache.cache_dir(),
            force_download=anew,
            tqdm_class=ReportingBar,
        )
    return Path(path)


@dataclass(frozen=True, slots=True)
class Removal:
    """A revision that can go: the bytes that gives back, and the call that does it."""

    freed_bytes: int
    execute: Callable[[], None]


def plan_removal(snapshot: Path) -> Removal:
    """Plan to remove a snapshot's directory with the blobs that no other revision needs.

    So go the revisions that no branch or tag is at any more: what newer downloads left behind.

    Raises UserError if the client cannot make sense of the repository in the cache.
    """
    cache = snapshot.parent.parent.parent
    try:
        found = scan_cache_dir(cache)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {cache}: {first_line(error)}") from error
    siblings = [repo.revisions for repo in found.repos if repo.repo_path == snapshot.parent.parent]
    revisions = [each for revisions in siblings for each in revisions]
    if not any(each.snapshot_path == snapshot for each in revisions):
        faults = [str(each) for each in found.warnings if str(snapshot.parent.parent) in str(each)]
        raise UserError(
            f"the hub's client cannot remove {snapshot}: {'; '.join(faults) or 'it is not listed'}",
            f"Remove {snapshot.parent.parent} by hand; other revisions are there too.",
        )
    left_behind = [each.commit_hash for each in revisions if not each.refs]
    strategy = found.delete_revisions(*{snapshot.name, *left_behind})
    return Removal(strategy.expected_freed_size, strategy.execute)
