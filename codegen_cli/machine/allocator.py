"""The C library's allocator, told to keep what one token's arrays leave for those of the next."""

import ctypes

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 << 20


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, up to 32 MB of it, for the next token's arrays.

    By default it hands back what lies at the end of its heap, to take it anew page by page: where
    all of a vocabulary may be drawn, that took longer than drawing. Elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(parameter, _KEPT_BYTES)
