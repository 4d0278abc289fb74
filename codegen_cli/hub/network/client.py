"""The hub's client: what a repository holds, where a file is, what a removal would free.

To be imported once settings.py finds nothing wrong. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN
and HF_HUB_OFFLINE act as in every program that uses the hub.
"""

import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urljoin

# Where no links can be made, our own commands say what that means.
os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated variables, told of to every user of its programs
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url, scan_cache_dir
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, RevisionNotFoundError
    from huggingface_hub.file_download import are_symlinks_supported
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.network import settings as hub_settings
from codegen_cli.hub.network.errors import NO_HUB_HINT, first_line, hub_errors
from codegen_cli.hub.network.failures import FileChanged
from codegen_cli.hub.network.patience import Patience
from codegen_cli.hub.network.ranges import open_body
from codegen_cli.hub.stored.content_hash import is_hash
from quantize.files.errors import UserError

ANSWER_SECONDS = 10

# As a file's name in the cache, and as part of another; the hub's are hexadecimal.
_BLOB_NAME = re.compile(r"[\w.+-]{1,150}(?<!\.)", re.ASCII)

# Our callers say what matters of a request that failed.
_log = logging.getLogger("huggingface_hub")
_log.handlers, _log.propagate = [logging.NullHandler()], False


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


def find_commit(entry: ModelEntry, commit: str) -> HubRepository | None:
    """Ask the hub what the repository held at a commit; None if there is none. Raises UserError."""
    try:
        return read_repository(replace(entry, revision=commit))
    except UserError as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            return None
        raise


def read_repository(entry: ModelEntry) -> HubRepository:
    """Ask the hub what a model's repository holds. Raises UserError."""
    with hub_errors(entry):
        try:
            get_session()
        except Exception as error:  # of its HTTP library, of ssl, or of a missing package
            raise _no_client(error) from error
        patience = Patience(entry.repository)
        while True:
            try:
                return _ask(entry)
            except HfHubHTTPError as error:  # it is there, and answers
                patience.failed(error)


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


@dataclass(frozen=True, slots=True)
class HubLocation:
    """Where a file can be fetched from now, and what the hub states of it.

    etag        names its content, and its blob in the cache
    file_bytes  None if the hub does not say
    """

    url: str
    etag: str
    file_bytes: int | None
    commit: str


def locate(entry: ModelEntry, commit: str, name: str) -> HubLocation:
    """Ask the hub where a file at a commit is.

    Raises FileChanged if there is no such commit, and what the client does (errors.hub_errors).
    """
    try:
        metadata = get_hf_file_metadata(hf_hub_url(entry.repository, name, revision=commit))
    except RevisionNotFoundError as error:
        raise FileChanged(f"{entry.repository} has changed") from error
    if not metadata.commit_hash:
        raise FileMetadataError("no commit")
    if not (metadata.etag and _BLOB_NAME.fullmatch(metadata.etag)):
        raise FileMetadataError("no ETag that can name a blob")
    url = urljoin(hf_hub_url(entry.repository, name, revision=commit), metadata.location)
    return HubLocation(url, metadata.etag, metadata.size, metadata.commit_hash)


def read_file(entry: ModelEntry, commit: str, name: str, most_bytes: int) -> bytes:
    """Return a small file's content, which is not kept. Raises UserError, as for one too large."""
    content = bytearray()
    with hub_errors(entry), open_body(locate(entry, commit, name).url, 0, None, whole=True) as body:
        for piece in body.pieces:
            content += piece
            if len(content) > most_bytes:
                raise UserError(
                    f"{entry.repository}: {name} has more than {most_bytes} bytes", NO_HUB_HINT
                )
    return bytes(content)


def makes_links(directory: Path) -> bool:
    """Tell whether the client would make links in a cache."""
    return are_symlinks_supported(directory)


@dataclass(frozen=True, slots=True)
class Removal:
    """A revision that can go: the bytes that gives back, and the call that does it."""

    freed_bytes: int
    execute: Callable[[], None]


def plan_removal(snapshot: Path, *, left_behind: bool) -> Removal:
    """Plan to remove a snapshot's directory with the blobs that no other revision needs.

    left_behind  so go the revisions that no branch or tag is at: what newer downloads left behind

    Raises UserError if the client cannot make sense of the repository in the cache.
    """
    cache = snapshot.parent.parent.parent
    try:
        found = scan_cache_dir(cache)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {cache}: {first_line(error)}") from error
    repositories = [repo for repo in found.repos if repo.repo_path == snapshot.parent.parent]
    revisions = [each for repo in repositories for each in repo.revisions]
    if not any(each.snapshot_path == snapshot for each in revisions):
        faults = [str(each) for each in found.warnings if str(snapshot.parent.parent) in str(each)]
        raise UserError(
            f"the hub's client cannot remove {snapshot}: {'; '.join(faults) or 'it is not listed'}",
            f"Remove {snapshot.parent.parent} by hand; other revisions are there too.",
        )
    others = [each.commit_hash for each in revisions if left_behind and not each.refs]
    # A copy of a repository has the same commits: it is none of those that are looked through.
    found = replace(found, repos=frozenset(repositories))
    strategy = found.delete_revisions(*{snapshot.name, *others})
    return Removal(strategy.expected_freed_size, strategy.execute)
