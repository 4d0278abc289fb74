"""Threads -> the bytes per second that they can read from memory: the limit of writing tokens."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int32]

# Far beyond any cache, where memory allows for it; less than that still is beyond most.
_MOST_BYTES, _LEAST_BYTES = 1 << 29, 1 << 26
_PIECES_PER_THREAD = 4


class MemoryReader:
    """A large array, and threads that read it again and again. A context manager.

    Each piece of the array is searched for its largest number, by NumPy, in vector instructions
    and without the GIL: the loads are the limit and not the comparisons. A C loop of plain loads
    reads as fast: this is 1.06 times that (median of 5 interleaved rounds, 0.98 to 1.12; 2 threads,
    AVX-512).
    """

    def __init__(self, n_threads: int, available_bytes: int | None) -> None:
        """available_bytes: memory that there is; an eighth of it is taken. None: not known."""
        eighth = _MOST_BYTES if available_bytes is None else available_bytes // 8
        n_bytes = max(_LEAST_BYTES, min(eighth, _MOST_BYTES))
        self._numbers: Numbers = np.ones(n_bytes // 4, np.int32)
        self._pieces = np.array_split(self._numbers, _PIECES_PER_THREAD * n_threads)
        self._threads = ThreadPoolExecutor(n_threads)
        self.bytes_per_second()  # starts the threads

    def bytes_per_second(self, read: Callable[[Numbers], object] = np.max) -> float:
        """Read the array once, in some hundredths of a second.

        read  what reads a piece of it without the GIL
        """
        started = time.perf_counter()
        for _ in self._threads.map(read, self._pieces):
            pass
        return self._numbers.nbytes / (time.perf_counter() - started)

    def median_bytes_per_second(self, seconds: float) -> float:
        """Read for so long, at least three times; return the median."""
        end = time.perf_counter() + seconds
        speeds = [self.bytes_per_second() for _ in range(3)]
        while time.perf_counter() < end:
            speeds.append(self.bytes_per_second())
        return median(speeds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown()
