"""Environment variables that the hub's client reads -> one error that names the first wrong one.

To be asked before the client is imported: wrong ones make its import fail, or end in an exception
of any kind from the depths of its HTTP library. What is judged here is what it would read; no value
that may hold a secret is shown.
"""

import importlib.util
import os
import re
from errno import ENOTDIR
from pathlib import Path
from urllib.parse import urlsplit

from codegen_cli.hub.stored import cache as hub_cache
from quantize.files.errors import UserError

DEFAULT_ENDPOINT = "https://huggingface.co"
STAGING_ENDPOINT = "https://hub-ci.huggingface.co"
_MOST_SECONDS = 1_000_000  # the system's timers take no more than some billions

# Set and empty they mean the default; the client would take "" for their value.
_DEFAULT_IF_EMPTY = (
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN_PATH",
    "HF_XET_CACHE",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_ETAG_TIMEOUT",
    "XDG_CACHE_HOME",
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
# Wrong, these spoil the import or add a line to ours; right, they change nothing that we show.
_WITHOUT_EFFECT = re.compile(r"HF_HUB_VERBOSITY|TQDM_.+")
_TRUE = ("1", "ON", "YES", "TRUE")


def require_importable() -> None:
    """Raise a UserError that names the first variable with which the client cannot be imported.

    Variables that are set and empty leave the environment, and so do those without effect here.
    """
    for name in list(os.environ):
        is_empty = name in _DEFAULT_IF_EMPTY and not os.environ[name].strip()
        if is_empty or _WITHOUT_EFFECT.fullmatch(name):
            del os.environ[name]
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        _judge_timeout(name)
    _judge_endpoint()


def require_usable() -> None:
    """Raise a UserError as above, or for the first variable with which it could not download."""
    require_importable()
    _judge_cache()
    _judge_user_agent()
    _judge_token()
    _judge_proxies()
    _judge_certificates()


def endpoint() -> str:
    """Return the hub's address as an error may show it, without a password."""
    if _is_true("HUGGINGFACE_CO_STAGING"):
        return STAGING_ENDPOINT
    stated = os.environ.get("HF_ENDPOINT", "").strip()
    return _without_password(stated or DEFAULT_ENDPOINT).rstrip("/")


def token_source() -> str:
    """Return where the token is from that the client sends: a variable, a path, "" without one."""
    if _is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return ""
    for name in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            return name
    path = _token_path()
    try:
        path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:  # HF_HOME below a file: that is told of the cache
        return str(path) if os.environ.get("HF_TOKEN_PATH") or error.errno != ENOTDIR else ""
    return str(path)


def proxy_variables() -> list[str]:
    """Return the names of the variables set here that send connections through proxies."""
    return list(_proxies())


def certificate_variables() -> list[str]:
    """Return the names of the variables set here that choose which certificates are trusted."""
    return [name for name in _CERTIFICATES if os.environ.get(name)]


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").upper() in _TRUE


def _judge_cache() -> None:
    if hub_cache.stated_cache_dir().startswith("~"):
        raise UserError(
            "this user has no home directory, so there is no place for downloads",
            "HF_HOME chooses a directory for them.",
        )


def _judge_timeout(name: str) -> None:
    text = os.environ.get(name)
    try:
        if text is None or 0 <= int(text) <= _MOST_SECONDS:
            return
    except ValueError:
        pass
    raise UserError(
        f"{name} is {text!a}, not a whole number of seconds",
        f"Set it to a number up to {_MOST_SECONDS}, or unset it: the default is 10.",
    )


def _judge_endpoint() -> None:
    text = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT)
    if problem := _url_problem(text, ("https", "http")):
        raise UserError(
            f"HF_ENDPOINT is {_without_password(text)!a}: {problem}",
            f"Set it to a hub's address, or unset it: the default is {DEFAULT_ENDPOINT}.",
        )


def _judge_user_agent() -> None:
    name = "HF_HUB_USER_AGENT_ORIGIN"
    if not re.fullmatch(r"[ -~]*", text := os.environ.get(name, "")):
        raise UserError(
            f"{name} is {text!a}: it holds a character that no header may have",
            f"Set it to ASCII text, or unset {name}.",
        )


def _judge_token() -> None:
    source = token_source()
    if not source or source == "HF_OIDC_RESOURCE":
        return
    is_file = source == str(_token_path())
    hint = "Mend it or remove it: hf auth login." if is_file else f"Mend {source} or unset it."
    if is_file:
        try:
            token = Path(source).read_text("utf-8")
        except OSError as error:
            raise UserError(
                f"cannot read the token in {source}: {error.strerror}",
                "HF_HOME chooses another place for downloads, HF_TOKEN_PATH another token file.",
            ) from error
        except UnicodeDecodeError:
            token = "\ufffd"
    else:
        token = os.environ[source]
    if not re.fullmatch(r"[!-~]*", token.replace("\r", "").replace("\n", "").strip()):
        raise UserError(
            f"the token in {source} holds a blank or a character that no token has", hint
        )


def _token_path() -> Path:
    stated = os.environ.get("HF_TOKEN_PATH") or str(Path(hub_cache.hub_home(), "token"))
    return Path(os.path.expandvars(os.path.expanduser(stated)))  # noqa: PTH111


def _proxies() -> dict[str, str]:
    """Return the proxy variables that count, by name: urllib prefers those in small letters."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in sorted(os.environ.items()):  # capitals come first
        if name.lower() in _PROXIES:
            found[name.lower()] = (name, text)
    return {name: text for name, text in found.values() if text}


def _judge_proxies() -> None:
    exceptions = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    if "*" in [host.strip() for host in exceptions.split(",")]:
        return
    for name, text in _proxies().items():
        url = text if "://" in text else f"http://{text}"
        if problem := _url_problem(url, ("http", "https", "socks5", "socks5h")):
            raise UserError(
                f"{name} is {_without_password(text)!a}: {problem}",
                f"Set it to a proxy's address, such as http://proxy.example:3128, or unset {name}.",
            )
        if url.lower().startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise UserError(
                f"{name} names a SOCKS proxy, for which the hub's client needs socksio",
                f"pip install socksio, or unset {name}.",
            )


def _judge_certificates() -> None:
    import ssl

    name = next((name for name in _CERTIFICATES[:2] if os.environ.get(name)), None)
    if name is None:
        return
    path = os.environ[name]
    problem = "" if name == "SSL_CERT_FILE" or Path(path).is_dir() else "not a directory"
    try:
        if name == "SSL_CERT_FILE":
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        problem = "it holds no certificates"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise UserError(
            f"{name} is {path!a}: {problem}",
            f"Set it to the certificates to trust, or unset {name}.",
        )


def _url_problem(url: str, schemes: tuple[str, ...]) -> str:
    """Return why a text cannot be the address of a server, "" if it can."""
    if not url.isprintable() or " " in url:
        return "it holds a blank or a character that no address has"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")
    except UnicodeError:
        return "a part of its host's name is empty or too long"
    except ValueError as error:
        return str(error)
    try:
        parts.port  # noqa: B018
    except ValueError:
        return "its port is not a number up to 65535"
    if parts.scheme not in schemes or "://" not in url:
        return f"it does not begin with {' or '.join(f'{each}://' for each in schemes)}"
    if not host:
        return "it names no host"
    return "it goes on after ? or #" if parts.query or parts.fragment else ""


def _without_password(url: str) -> str:
    """Return an address without what stands before its @."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}...@{rest.rpartition('@')[2]}" if "@" in rest else url
