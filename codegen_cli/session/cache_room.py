"""An engine -> the bytes that keys and values of several texts may take, and what does not fit."""

from collections.abc import Callable
from typing import NamedTuple

from codegen_cli.contract.engine import Engine
from codegen_cli.decoding.scheduler import default_most_texts, texts_that_fit
from codegen_cli.machine.memory import available_bytes

# Of what is available now: other programs may need some of it, too.
_SHARE = 0.8


class Shortage(NamedTuple):
    """Why fewer texts are under way at a time than would be worth it.

    n_texts      that fit into memory
    n_positions  that each has, its completion included
    room_bytes   for the keys and values of all of them
    """

    n_texts: int
    n_positions: int
    room_bytes: int


OnShortage = Callable[[Shortage], None]
"""Told once, before texts have to wait for others because memory is short."""


def cache_room(engine: Engine) -> int | None:
    """Return so many bytes; None where the system does not tell.

    The system counts a mapped file as memory that it can take back, but the weights are read for
    every token: they are to stay. What a GPU has free is not asked for: there, as here, no more
    texts are under way than are worth it, and one that finds no memory ends with an error.
    """
    if engine.identity.engine != "numba":
        return None
    available = available_bytes()
    return None if available is None else max(0, int(_SHARE * (available - engine.token_bytes)))


def shortage(engine: Engine, room_bytes: int | None, n_positions: int) -> Shortage | None:
    """Return what keeps texts of such a length from being under way at once; None: not memory."""
    if room_bytes is None:
        return None
    n_texts = texts_that_fit(engine, room_bytes, n_positions)
    if n_texts >= default_most_texts(engine):
        return None
    return Shortage(n_texts, n_positions, room_bytes)
