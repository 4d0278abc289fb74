"""A shape -> an array that begins at a cache line: no vector as long as one straddles two."""

from typing import Any

import numpy as np
import numpy.typing as npt

from quantize.description.formats import LINE_BYTES


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros; the system hands out their memory as it is written to."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return _aligned(np.zeros(n_bytes + LINE_BYTES, np.uint8), n_bytes).view(dtype).reshape(shape)


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return memory as it was left."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return _aligned(np.empty(n_bytes + LINE_BYTES, np.uint8), n_bytes).view(dtype).reshape(shape)


def _aligned(memory: npt.NDArray[np.uint8], n_bytes: int) -> npt.NDArray[np.uint8]:
    start = -memory.ctypes.data % LINE_BYTES
    return memory[start : start + n_bytes]
