"""An engine -> the bytes that the keys and values of several texts may take."""

from codegen_cli.contract.engine import Engine
from codegen_cli.machine.memory import available_bytes

# Of what is available now: other programs may need some of it, too.
_SHARE = 0.8


def cache_room(engine: Engine) -> int | None:
    """Return so many bytes; None where the system does not tell.

    What a GPU has free is not asked for: there, as here, no more texts are under way than are worth
    it, and one that finds no memory ends with an error.
    """
    if engine.identity.engine != "numba":
        return None
    available = available_bytes()
    return None if available is None else int(_SHARE * available)
