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
    return _from(memory, LINE_BYTES, n_bytes).view(dtype).reshape(shape)


def paged_memory(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return memory in huge pages where there are any, handed out page by page as it is written to.

    It lies at the beginning of a page, and is given back as soon as no array reaches into it. What
    is read from many places of it takes twice as long in pages of 4 KB. Raises MemoryError.
    """
    try:
        mapped = mmap.mmap(-1, n_bytes + _HUGE_PAGE)
    except OSError as error:
        raise MemoryError from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return _from(np.frombuffer(mapped, np.uint8), _HUGE_PAGE, n_bytes)


def _from(memory: npt.NDArray[np.uint8], alignment: int, n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return so many bytes from the first multiple of an alignment on."""
    start = -memory.ctypes.data % alignment
    return memory[start : start + n_bytes]
