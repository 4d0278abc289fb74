"""A shape -> memory that begins at a cache line, so that no vector as long as one straddles two."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from quantize.description.formats import LINE_BYTES

_HUGE_PAGE = 2 << 20


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros; the system hands out their memory as it is written to."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


def paged_memory(n_bytes: int, offset: int = 0) -> npt.NDArray[np.uint8]:
    """Return memory of its own that is given back as soon as no array reaches into it.

    offset  of its beginning in a huge page, a multiple of LINE_BYTES

    It is handed out as it is written to: in huge pages where there are any and it fills them, else
    in pages of the usual size, so that it never takes more than it has. Raises MemoryError.
    """
    try:
        mapped = mmap.mmap(-1, n_bytes + offset + _HUGE_PAGE)
    except OSError as error:
        raise MemoryError from error
    memory = np.frombuffer(mapped, np.uint8)
    first_page = -memory.ctypes.data % _HUGE_PAGE
    filled = (offset + n_bytes) // _HUGE_PAGE * _HUGE_PAGE
    if filled and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE, first_page, filled)
    start = first_page + offset
    return memory[start : start + n_bytes]
