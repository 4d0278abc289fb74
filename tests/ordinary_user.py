"""Root gives up its rights to what belongs to others, for the program that it starts next."""

import ctypes
import os

_DROP_FROM_BOUNDING_SET = 24  # of prctl(2); the rights are those of capabilities(7)
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2


def as_ordinary_user() -> None:
    """Run between fork and exec, as subprocess's preexec_fn; does nothing for other users."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None).prctl
        for right in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
            prctl(_DROP_FROM_BOUNDING_SET, right, 0, 0, 0)
