"""One tensor of a checkpoint -> its payload and relative error, a portion of its rows at a time."""

import math
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from typing import Protocol

import numpy as np

from quantize.containers.source_tensor import TensorStack
from quantize.description.formats import BAND, Format, MatrixFormat, bands_of
from quantize.description.tensor_map import TensorSpec
from quantize.files.errors import UserError
from quantize.packed.layout import (
    Shape,
    codes_bytes,
    codes_view,
    order_f16,
    order_int8_codes,
    order_scales,
    pack_f32,
    payload_bytes,
    scales_bytes,
    scales_view,
)
from quantize.rounding.groups import (
    F16_MAX,
    Bytes,
    Float16,
    Float32,
    dequantize_f16,
    dequantize_int8,
    quantize_f16,
    quantize_int8,
)
from quantize.rounding.rounding_process import Portion, Totals, new_portion

# Weights of a portion of rows: 4 MB as fp16, of which each thread has one.
_PORTION_WEIGHTS = 1 << 21


class Rounder(Protocol):
    """Who fills portions: a RoundingProcess, or this process."""

    def portion(
        self, format: MatrixFormat, n_rows: int, n_in: int, *, is_half: bool
    ) -> AbstractContextManager[Portion]:
        """Room for so many rows; is_half: of fp16, else of float32."""
        ...

    def round(self, portion: Portion) -> Totals:
        """Fill a portion's codes and scales."""
        ...


class NumpyRounder:
    """int8 and f16 as groups.py defines them: no process to start, and nothing to compile."""

    @contextmanager
    def portion(
        self, format: MatrixFormat, n_rows: int, n_in: int, *, is_half: bool
    ) -> Iterator[Portion]:
        """As Rounder.portion."""
        yield new_portion(format, n_rows, n_in, is_half=is_half)

    def round(self, portion: Portion) -> Totals:
        """As Rounder.round."""
        weights = portion.rows.astype(np.float32)
        largest = float(np.abs(weights).max())
        if not largest <= F16_MAX:  # true for NaN, too
            return Totals(0, 0, largest)
        codes: np.ndarray
        if portion.format == "int8":
            rounded, scales = quantize_int8(weights)
            codes, restored = order_int8_codes(rounded), dequantize_int8(rounded, scales)
            portion.scales[:] = order_scales(scales).reshape(-1)
        else:
            half = quantize_f16(weights)
            codes, restored = order_f16(half), dequantize_f16(half)
        portion.codes[:] = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
        return Totals(_sum_squares(restored - weights), _sum_squares(weights), largest)


class PayloadMemory:
    """Memory for a payload while the one before is in use: the system clears none of it anew."""

    def __init__(self, most_bytes: int) -> None:
        self._memories = cycle([np.empty(most_bytes, np.uint8) for _ in range(2)])

    def next(self, format: Format, shape: Shape) -> Bytes:
        """Return a payload that holds anything, but zeros in its padding."""
        payload = next(self._memories)[: payload_bytes(format, shape)]
        payload[codes_bytes(format, shape) + scales_bytes(format, shape) :] = 0
        return payload


def pack_tensor(
    spec: TensorSpec,
    tensor: TensorStack,
    format: Format,
    memory: PayloadMemory,
    threads: Executor,
    rounder: Rounder,
) -> tuple[Bytes, float]:
    """Return a tensor's payload and relative error: rms of what moved / rms of the weights.

    The payload stays as it is until the second call after this one. Raises UserError for a value
    beyond fp16's range, and as the rounder does.
    """
    if format == "f32":
        vector = tensor.read_float32()
        _judge(float(np.abs(vector).max()), vector, spec)
        return pack_f32(vector), 0.0
    n_out, n_in = spec.shape
    payload = memory.next(format, spec.shape)
    codes = codes_view(format, spec.shape, payload).reshape(bands_of(n_out), -1).view(np.uint8)
    scales = _scales(format, spec, payload).reshape(bands_of(n_out), -1)
    n_portion = max(_PORTION_WEIGHTS // n_in // BAND, 1) * BAND

    def pack_rows(start: int) -> tuple[float, float]:
        """Fill the payload from row `start` on; return the sums of squared errors and weights."""
        n_rows = min(n_portion, n_out - start)
        bands = slice(start // BAND, start // BAND + bands_of(n_rows))
        with rounder.portion(format, n_rows, n_in, is_half=tensor.dtype == "F16") as portion:
            weights = portion.rows[:n_rows, :n_in]
            _read_rows(weights, spec, tensor, start)
            totals = rounder.round(portion)
            _judge(totals.largest, weights, spec)
            codes[bands] = portion.codes.reshape(codes[bands].shape)
            scales[bands] = portion.scales.reshape(scales[bands].shape)
        return totals.squared_error, totals.squared_weights

    squares = np.array(list(threads.map(pack_rows, range(0, n_out, n_portion))))
    squared_error, squared_weights = squares.sum(axis=0).tolist()
    return payload, math.sqrt(squared_error / squared_weights) if squared_weights else 0.0


def _scales(format: Format, spec: TensorSpec, payload: Bytes) -> Float16:
    has_scales = format != "f16"
    return scales_view(format, spec.shape, payload) if has_scales else np.empty(0, np.float16)


def _read_rows(out: Float32 | Float16, spec: TensorSpec, tensor: TensorStack, start: int) -> None:
    """Read our rows from `start` on, as many as `out` has; each run of neighbours at once."""
    if spec.row_order is None:
        tensor.read_into(out, slice(start, start + len(out)))
        return
    rows = spec.row_order[start : start + len(out)]
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for first, end in zip([0, *ends], ends, strict=False):
        tensor.read_into(out[first:end], slice(int(rows[first]), int(rows[end - 1]) + 1))


def _judge(largest: float, weights: Float32 | Float16, spec: TensorSpec) -> None:
    """Raise a UserError unless each weight is a number within fp16's range: all formats need it."""
    if largest <= F16_MAX:  # false for NaN, too
        return
    magnitudes = np.abs(weights.astype(np.float32))
    found = weights.flat[np.argmax(magnitudes)]  # the first NaN counts as the largest
    raise UserError(
        f"{spec.source} holds {found:g}, need numbers from {-F16_MAX:g} to {F16_MAX:g}",
        "fp16 cannot hold this checkpoint; use one whose weights it can.",
    )


def _sum_squares(values: Float32) -> float:
    return float(np.square(values).sum(dtype=np.float64))
