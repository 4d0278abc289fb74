"""Whatever the hub's client raises -> one UserError that names the status, and the cure."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus

from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
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

from codegen_cli.hub.entries import ModelEntry
from codegen_cli.hub.network import settings as hub_settings
from codegen_cli.hub.network.failures import (
    ConnectionCut,
    FileChanged,
    LinkExpired,
    NoRanges,
    WrongLength,
)
from codegen_cli.hub.stored import cache as hub_cache
from codegen_cli.hub.stored.cache import AGAIN_HINT
from quantize.files.errors import UserError

OFFLINE_HINT = "A checkpoint that you have needs no network: codegen quantize DIRECTORY"
NO_HUB_HINT = "Check HF_ENDPOINT, and whether a proxy or a login page answers in the hub's place."


@contextmanager
def hub_errors(entry: ModelEntry) -> Iterator[None]:
    """Turn whatever the client raises within into a UserError.

    All kinds of exceptions come out of it: its own, those of two HTTP libraries and of ssl, and
    TypeError or KeyError where an answer has another form than it believes.
    """
    try:
        yield
    except (UserError, MemoryError, FileChanged):
        raise
    except Exception as error:
        raise user_error(entry, error) from error


def user_error(entry: ModelEntry, error: BaseException) -> UserError:
    """Return what to tell the user; many of these classes are OSErrors, so the order matters."""
    while type(error) in (LocalEntryNotFoundError, ValueError) and error.__cause__:
        error = error.__cause__
    repository = entry.repository
    match error:
        case HFValidationError():
            return UserError(f"{repository} cannot be a repository: {first_line(error)}")
        case OfflineModeIsEnabled():
            return UserError(
                f"{repository} is not in the cache, and HF_HUB_OFFLINE forbids to download it",
                f"Unset HF_HUB_OFFLINE. {OFFLINE_HINT}",
            )
        case RevisionNotFoundError():
            return UserError(f"{repository} has no revision {entry.revision}")
        case HfHubHTTPError():
            return _refusal(entry, error)
        case (
            FileMetadataError()
            | RecursionError()
            | ValueError()
            | TypeError()
            | KeyError()
            | AttributeError()
        ):
            return _nonsense(entry, error)
        case HttpError():
            return _no_connection(error)
        case ConnectionCut() | NoRanges():
            return UserError(
                f"the connection to {hub_settings.endpoint()} is cut before a file of {repository} "
                "is whole, again and again",
                f"Check the network{_also(hub_settings.proxy_variables())}. {AGAIN_HINT}",
            )
        case WrongLength():
            return UserError(f"{repository}: {error}, again and again", NO_HUB_HINT)
        case LinkExpired():
            return UserError(
                f"{hub_settings.endpoint()} gives links to files of {repository} that are answered "
                f"{error}, again and again",
                f"Wait a while. {AGAIN_HINT}",
            )
        case OSError(errno=int(), strerror=str()):
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            cure = "Free some space and run the same command again. " if is_full else ""
            return UserError(
                f"cannot store {repository} in {hub_cache.cache_dir()}: {error.strerror}",
                f"{cure}HF_HOME chooses another directory for downloads.",
            )
    return UserError(
        f"cannot download {repository}: {type(error).__name__}: {first_line(error)}",
        f"The hub's client failed so. Check HF_ENDPOINT{_also(hub_settings.proxy_variables())}.",
    )


def redirects_without_end() -> UserError:
    """Return what to tell of a hub that sends on again and again."""
    return UserError(f"{hub_settings.endpoint()} redirects without end", NO_HUB_HINT)


def _nonsense(entry: ModelEntry, error: BaseException) -> UserError:
    """Return what to tell of an answer that the client could not read, or not the error in it."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, HttpError) and hasattr(cause, "response"):
        return _refusal(entry, cause)
    told = f": {first_line(error)}" if type(error) is ValueError else ""
    return UserError(f"{hub_settings.endpoint()} does not answer as a hub does{told}", NO_HUB_HINT)


def _refusal(entry: ModelEntry, error: HttpError) -> UserError:
    """Return what to tell of an answer with a status of 400 or more."""
    hub, repository = hub_settings.endpoint(), entry.repository
    response = error.response  # type: ignore[attr-defined]
    status = response.status_code
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{repository} is gated: its owner grants access",
            f"Ask for it at {hub}/{repository}, then set HF_TOKEN.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{hub} has no repository {repository}",
            f"Check the spelling; a private repository needs {_a_token()}. {OFFLINE_HINT}",
        )
    if isinstance(error, DisabledRepoError):
        return UserError(f"{hub} has disabled {repository}")
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "no status we know"
    return UserError(
        f"{hub} answered {status} for {repository}: {phrase}", _cure(status, response.headers)
    )


def _cure(status: int, headers: Mapping[str, str]) -> str:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return f"The hub wants {_a_token()}: see {hub_settings.endpoint()}/settings/tokens"
        case HTTPStatus.FORBIDDEN:
            return f"Reading it needs {_a_token()}, of somebody who may."
        case HTTPStatus.NOT_FOUND:
            return f"Check the spelling and HF_ENDPOINT. {OFFLINE_HINT}"
        case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            names = ", ".join(hub_settings.proxy_variables())
            place = f" in {names}" if names else ""
            return f"The proxy wants a password: http://NAME:PASSWORD@HOST:PORT{place}."
        case HTTPStatus.TOO_MANY_REQUESTS:
            more = "" if hub_settings.token_source() else " With HF_TOKEN set, more are allowed."
            return f"{_wait(headers)}, then run the same command again.{more}"
        case HTTPStatus.REQUEST_TIMEOUT:
            return AGAIN_HINT
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        wait = f" {_wait(headers)}." if headers.get("Retry-After") else " Wait a while."
        return f"The hub has trouble.{wait} {AGAIN_HINT}"
    return NO_HUB_HINT


def _wait(headers: Mapping[str, str]) -> str:
    """Return how long the hub asks to wait: Retry-After, or t= of its own RateLimit header."""
    stated = headers.get("Retry-After", "").strip()
    _, _, rest = headers.get("RateLimit", "").partition(";t=")
    seconds = stated or rest.partition(";")[0].strip()
    if seconds.isascii() and seconds.isdigit() and len(seconds) < 10:
        return f"Wait {int(seconds)} s"
    return f"Wait until {stated}" if stated else "Wait a few minutes"


def _no_connection(error: BaseException) -> UserError:
    """Return what to tell where no answer came: the HTTP library's errors, known by their names."""
    hub = hub_settings.endpoint()
    kinds, reason = {kind.__name__ for kind in type(error).__mro__}, first_line(error)
    proxies = hub_settings.proxy_variables()
    if "TooManyRedirects" in kinds:
        return redirects_without_end()
    if "TimeoutException" in kinds:
        return UserError(
            f"{hub} did not answer in time: {reason}",
            f"Check the network{_also(proxies)}. HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT"
            f" allow more seconds. {OFFLINE_HINT}",
        )
    if "ProxyError" in kinds:
        return UserError(
            f"the proxy did not connect to {hub}: {reason}",
            f"Check {', '.join(proxies) or 'the proxy in the settings of the system'}.",
        )
    names = proxies
    if "SSL" in reason or "certificate" in reason:
        names = proxies + hub_settings.certificate_variables()
    return UserError(
        f"the connection to {hub} failed: {reason}",
        f"Check the network, or HF_ENDPOINT{_also(names)}. {OFFLINE_HINT}",
    )


def _a_token() -> str:
    """Return what a token is missing or wrong, by the place where it is looked for."""
    source = hub_settings.token_source()
    return f"another token than the one in {source}" if source else "a token in HF_TOKEN"


def _also(names: Sequence[str]) -> str:
    return f", and {', '.join(names)}, set here" if names else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class's name."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
