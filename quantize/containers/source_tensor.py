"""Mapped bytes of a checkpoint and what its header says of them -> one tensor, readable by rows."""

import contextlib
import math
import mmap
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from quantize.files.errors import UserError
from quantize.files.input_file import quoted

# The names are safetensors' own. A type that NumPy lacks is held as unsigned integers of its size;
# BOOL too, because a byte other than 0 and 1 is no NumPy bool.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "C64": np.dtype("<c8"),
}
FLOAT_DTYPES = ("F16", "BF16", "F32")

# NumPy counts bytes in 64 bits, and counts a zero dimension as one when it checks that.
MAX_DIMENSIONS = 8
_MAX_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of a checkpoint, in its file until it is read.

    dtype   a key of NUMPY_DTYPES
    data    shape `shape`, read-only, memory-mapped, perhaps strided or unaligned; BF16 as uint16
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.generic] = field(repr=False, compare=False)

    def read_float32(self, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Those rows (of the first dimension) as a float32 array of their own, in C order.

        The pages read are handed back to the system. Raises UserError unless dtype is F16, BF16 or
        F32; F16 and BF16 values are exact in float32.
        """
        view = self.data[rows] if self.shape else self.data
        values = np.empty(view.shape, np.float32)
        self.read_into(values, rows)
        return values

    def read_into(
        self, out: npt.NDArray[np.float32] | npt.NDArray[np.float16], rows: slice = slice(None)
    ) -> None:
        """As read_float32, into an array of those rows: float32, or float16 if dtype is F16."""
        if self.dtype not in FLOAT_DTYPES:
            raise UserError(
                f"tensor {quoted(self.name)} is {self.dtype}, need one of "
                f"{', '.join(FLOAT_DTYPES)}",
                "Use the checkpoint as its authors published it.",
            )
        view = self.data[rows] if self.shape else self.data
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            bits = out.view(np.uint32)
            bits[...] = view
            bits <<= np.uint32(16)
        else:
            np.copyto(out, view)
        _release_pages(view)


@dataclass(frozen=True, slots=True)
class TensorStack:
    """Tensors of equal rows, put under one another; each stays in its file until it is read."""

    parts: tuple[SourceTensor, ...]

    @property
    def dtype(self) -> str:
        """The type of all parts; F32, which holds the values of each, where they differ."""
        types = {part.dtype for part in self.parts}
        return types.pop() if len(types) == 1 else "F32"

    def read_float32(self) -> npt.NDArray[np.float32]:
        """The whole, as SourceTensor.read_float32 gives a part."""
        return np.concatenate([part.read_float32() for part in self.parts])

    def read_into(
        self, out: npt.NDArray[np.float32] | npt.NDArray[np.float16], rows: slice
    ) -> None:
        """Read those rows of the whole, neighbours, as SourceTensor.read_into does."""
        start, stop = rows.start, rows.stop
        first = 0  # row of the whole at which a part begins
        for part in self.parts:
            low, high = max(start, first), min(stop, first + part.shape[0])
            if low < high:
                part.read_into(out[low - start : high - start], slice(low - first, high - first))
            first += part.shape[0]


def fits_numpy(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether NumPy can describe an array of these non-negative dimensions."""
    return (
        len(shape) <= MAX_DIMENSIONS
        and math.prod(max(size, 1) for size in shape) * itemsize <= _MAX_BYTES
    )


def view_tensor(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    content: npt.NDArray[np.uint8],
    start_bytes: int,
    strides: tuple[int, ...] | None = None,
) -> SourceTensor:
    """A tensor over `content` [size_bytes] from `start_bytes` on; strides in bytes, else C order.

    The caller has checked the bounds and can name what is wrong; NumPy checks them once more here.
    """
    data = np.ndarray(shape, NUMPY_DTYPES[dtype], content, start_bytes, strides)
    return SourceTensor(name, dtype, shape, data)


def _release_pages(view: npt.NDArray[np.generic]) -> None:
    """Hand the mapped pages under `view` back to the system, where it can be told to take them.

    A page that was read counts as memory of this process until then, so a checkpoint that is read
    tensor by tensor would seem to fill as much memory as its file is long. The view stays valid.
    """
    whole: npt.NDArray[np.generic] = view
    owner: object = view
    while isinstance(owner, np.ndarray):
        whole, owner = owner, cast(object, owner.base)
    mapped = owner.obj if isinstance(owner, memoryview) else owner
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None or not isinstance(mapped, mmap.mmap) or view.size == 0:
        return
    low, high = np.lib.array_utils.byte_bounds(view)
    first = whole.ctypes.data
    start = (low - first) // mmap.PAGESIZE * mmap.PAGESIZE
    # Refused for memory that is locked in place; then it simply stays.
    with contextlib.suppress(OSError):
        mapped.madvise(advice, start, high - first - start)
