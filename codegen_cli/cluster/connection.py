"""An address -> this process connected to a Ray cluster, or one error within a bounded time."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

import ray
from ray.exceptions import AuthenticationError, RayError

from codegen_cli.cluster.address import AUTO, FOUND, LOCAL, host_and_port
from codegen_cli.machine.cores import usable_cores
from quantize.files.errors import UserError

# Ray itself tries for two minutes and more, in which nothing ends it.
_REACH_SECONDS = 5
_PATIENCE_SECONDS = 45

_HOW_TO_START = (
    "`ray start --head` starts one; --ray local makes one for this run alone, on this machine."
)
_HOW_TO_TRUST = (
    "Set RAY_AUTH_MODE=token here too, with the cluster's token in ~/.ray/auth_token or "
    "RAY_AUTH_TOKEN."
)

GiveUp = Callable[[UserError], None]
"""Told why there will be no connection, from another thread; ends the process."""


class NoneFound(Exception):
    """This machine is in no cluster, and none was asked for."""


@contextlib.contextmanager
def connected(address: str, give_up: GiveUp) -> Iterator[None]:
    """Be connected to a cluster, at an address as address.py has them.

    Raises UserError where there is none, it does not let this user in, or it is another Ray; and
    NoneFound for the address FOUND.
    """
    meant = os.environ.get("RAY_ADDRESS") or address if address in (FOUND, AUTO) else address
    try:
        _connect(meant, give_up)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise _refused(meant, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str, give_up: GiveUp) -> None:
    if address == LOCAL:
        _start()
        return
    if address in (FOUND, AUTO):
        try:
            _join(AUTO, give_up)
        except ConnectionError as error:
            if address == FOUND and error.__cause__ is None:  # else one is known, and is away
                raise NoneFound from error
            raise
        return
    _reach(address)
    _join(address, give_up)


def _start() -> None:
    """Make a cluster of this machine, with as many CPUs as a model would use of it."""
    n_cpus = usable_cores().n_threads
    ray.init(LOCAL, num_cpus=n_cpus, include_dashboard=False, log_to_driver=False)


def _join(address: str, give_up: GiveUp) -> None:
    error = UserError(
        f"no Ray cluster answered at {address} within {_PATIENCE_SECONDS} s", _HOW_TO_START
    )
    timer = threading.Timer(_PATIENCE_SECONDS, give_up, [error])
    timer.daemon = True
    timer.start()
    try:
        ray.init(address, log_to_driver=False)
    finally:
        timer.cancel()


def _reach(address: str) -> None:
    """Raise UserError unless something listens at an address."""
    host, port = host_and_port(address)
    try:
        socket.create_connection((host, port), _REACH_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"no Ray cluster at {address}: {reason}", _HOW_TO_START) from error


def _refused(address: str, error: Exception) -> UserError:
    """Return what to say of an error of Ray's, which may hold that of an earlier try as text."""
    where = "of this machine" if address in (FOUND, AUTO, LOCAL) else f"at {address}"
    said = str(error.__cause__ or error).strip()
    if isinstance(error, AuthenticationError) or AuthenticationError.__name__ in said:
        return UserError(f"the Ray cluster {where} does not let this user in", _HOW_TO_TRUST)
    reason = said.splitlines()[-1] if said else type(error).__name__
    return UserError(f"no connection to a Ray cluster {where}: {reason}", _HOW_TO_START)
