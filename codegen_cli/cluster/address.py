"""What a user writes after --ray -> which cluster is meant."""

import re

from quantize.files.errors import UserError

FOUND = ""
"""A cluster that this machine belongs to (or RAY_ADDRESS names), else one of this run's own."""

AUTO = "auto"
"""A cluster that this machine belongs to, or RAY_ADDRESS names."""

LOCAL = "local"
"""A cluster of this run's own, on this machine alone."""

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):(\d{1,5})", re.ASCII)


def is_address(text: str) -> bool:
    """Tell whether a text can only be an address: HOST:PORT, auto, local, or Ray Client's."""
    is_word = text in (AUTO, LOCAL)
    return is_word or "://" in text or _HOST_AND_PORT.fullmatch(text) is not None


def host_and_port(address: str) -> tuple[str, int]:
    """Take HOST:PORT apart; UserError for what is no address of a cluster's head."""
    if "://" in address:
        raise UserError(
            f"{address} is an address for Ray Client, which cannot be used here",
            "Have this machine join the cluster (ray start --address=HOST:6379), and give "
            "--ray HOST:6379.",
        )
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None or not 0 < int(match[2]) < 1 << 16:
        raise UserError(
            f"{address!r} is no address of a Ray cluster",
            f"Give HOST:PORT, as in --ray 10.0.0.1:6379; or {AUTO}, or {LOCAL}.",
        )
    return match[1].strip("[]"), int(match[2])
