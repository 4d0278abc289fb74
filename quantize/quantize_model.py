"""A checkpoint and a format -> a packed file, one portion of the rows in memory at a time."""

import importlib.metadata
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantize.checkpoint.reading import WEIGHT_FILES, Checkpoint, open_checkpoint
from quantize.checkpoint.tokenizer_files import tokenizer_files
from quantize.containers.source_tensor import TensorStack
from quantize.description.config import packed_config
from quantize.description.formats import BAND, MATRIX_FORMATS, Format, MatrixFormat
from quantize.description.tensor_map import TensorSpec, listed, match_tensors, tensor_specs
from quantize.files.errors import UserError
from quantize.packed.layout import (
    Shape,
    codes_view,
    new_payload,
    order_f16,
    order_int4_codes,
    order_int8_codes,
    order_scales,
    pack_f32,
    payload_bytes,
    scales_view,
)
from quantize.packed.packed_writer import ModelDescription, TensorEntry, write_packed_file
from quantize.packed.sizes import stored_format
from quantize.rounding.groups import (
    F16_MAX,
    Bytes,
    Float16,
    Float32,
    dequantize_f16,
    dequantize_int4,
    dequantize_int8,
    quantize_f16,
    quantize_int4,
    quantize_int8,
)
from quantize.rounding.search_process import shared_process

# Weights of a portion of rows: about 4 MB as float32, of which a thread holds a handful at a time.
_PORTION_WEIGHTS = 1 << 20
# Beyond this, reading the checkpoint and not the arithmetic takes the time.
_MOST_THREADS = 16

Search = Callable[[Float32], Float16]
"""Weights [n_out, n_in] -> scales [n_out, n_groups], as scale_search finds them."""


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor done: the index-th of count, counted from 1.

    relative_error  rms of what rounding moved the weights by / rms of the weights
    """

    index: int
    count: int
    name: str
    format: Format
    shape: Shape
    relative_error: float


@dataclass(frozen=True, slots=True)
class QuantizeSummary:
    """A packed file done.

    bytes            of the file
    bits_per_weight  of all payloads, over all weights, norms and biases
    worst            the tensor with the largest relative error
    warnings         what was packed all the same but is not as it should be, a sentence each
    notes            what was left out, a sentence each
    """

    path: Path
    bytes: int
    bits_per_weight: float
    worst: TensorReport
    seconds: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: str,
    *,
    name: str | None = None,
    on_tensor: Callable[[TensorReport], None] | None = None,
) -> QuantizeSummary:
    """Pack the checkpoint at `source` (a directory or a weight file) as int8, int4 or f16.

    `name` is what the packed file calls its model, if anything. Calls on_tensor as each tensor is
    done. Raises UserError for a checkpoint that cannot be read or holds a value beyond fp16's
    range, and for a target that cannot be written or holds something else than a packed model; the
    source is never touched, and the target stays as it was unless all went well.
    """
    start_seconds = time.perf_counter()
    source, target = Path(source), Path(target)
    if format not in MATRIX_FORMATS:
        raise UserError(f"unknown format {format!r}", f"Use {', '.join(MATRIX_FORMATS)}.")
    checkpoint = open_checkpoint(source)
    _refuse_to_hide(checkpoint, target)
    model = _describe(checkpoint, format, name or "")
    specs = tensor_specs(checkpoint.config)
    pairs = match_tensors(specs, checkpoint.tensors, str(checkpoint.path))
    entries = [
        TensorEntry(spec.name, stored_format(spec, model.format), spec.shape) for spec in specs
    ]
    reports: list[TensorReport] = []
    threads = ThreadPoolExecutor(_usable_cores())

    def payloads(search: Search) -> Iterator[Bytes]:
        for (spec, tensor), entry in zip(pairs, entries, strict=True):
            payload, error = _pack_tensor(spec, tensor, entry.format, threads, search)
            index = len(reports) + 1
            reports.append(
                TensorReport(index, len(specs), spec.name, entry.format, spec.shape, error)
            )
            if on_tensor:
                on_tensor(reports[-1])
            yield payload

    with shared_process() as process:
        try:
            parts = payloads(process.search)
            size_bytes = write_packed_file(target, model, entries, parts, _files(checkpoint))
        finally:
            # Whoever interrupts does not wait for portions in work.
            threads.shutdown(wait=False, cancel_futures=True)
    return QuantizeSummary(
        path=target,
        bytes=size_bytes,
        bits_per_weight=_bits_per_weight(entries),
        worst=max(reports, key=lambda report: report.relative_error),
        seconds=time.perf_counter() - start_seconds,
        warnings=tuple(_warnings(checkpoint)),
        notes=tuple(_notes(checkpoint)),
    )


def _refuse_to_hide(checkpoint: Checkpoint, target: Path) -> None:
    """Raise a UserError for a target that would be read as the source's weights from then on."""
    is_beside = target.parent.resolve() == checkpoint.path.resolve()
    if is_beside and target.name in WEIGHT_FILES and not target.exists():
        raise UserError(
            f"cannot write {target}: it would be read as the checkpoint's weights",
            "Choose another target.",
        )


class _Rows(NamedTuple):
    """Some rows in kernel order, and the values that they stand for [n_rows, n_in padded]."""

    codes: npt.NDArray[np.generic]
    scales: Float16 | None
    restored: Float32


def _pack_tensor(
    spec: TensorSpec, tensor: TensorStack, format: Format, threads: Executor, search: Search
) -> tuple[Bytes, float]:
    """Return a tensor's payload and relative error."""
    if format == "f32":
        return pack_f32(_judged(tensor.read_float32(), spec)), 0.0
    n_out, n_in = spec.shape
    payload = new_payload(format, spec.shape)
    n_rows = max(_PORTION_WEIGHTS // n_in // BAND, 1) * BAND

    def pack_rows(start: int) -> tuple[float, float]:
        """Fill the payload from row `start` on; return the sums of squared errors and weights."""
        weights = _read_rows(spec, tensor, start, start + n_rows)
        rows = _QUANTIZERS[format](weights, search)
        bands = slice(start // BAND, start // BAND + len(rows.codes))
        codes_view(format, spec.shape, payload)[bands] = rows.codes
        if rows.scales is not None:
            scales_view(format, spec.shape, payload)[bands] = rows.scales
        return _sum_squares(rows.restored[:, :n_in] - weights), _sum_squares(weights)

    squares = np.array(list(threads.map(pack_rows, range(0, n_out, n_rows))))
    squared_error, squared_weights = squares.sum(axis=0).tolist()
    return payload, math.sqrt(squared_error / squared_weights) if squared_weights else 0.0


def _read_rows(spec: TensorSpec, tensor: TensorStack, start: int, stop: int) -> Float32:
    """Return our rows start..stop of a matrix as f32; each run of neighbours is read at once."""
    if spec.row_order is None:
        return _judged(tensor.read_float32(slice(start, stop)), spec)
    rows = spec.row_order[start:stop]
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    parts = [tensor.read_float32(slice(int(run[0]), int(run[-1]) + 1)) for run in runs]
    return _judged(np.concatenate(parts), spec)


def _judged(weights: Float32, spec: TensorSpec) -> Float32:
    """Return the weights if each is a number within fp16's range, which every format needs."""
    largest = np.abs(weights).max()
    if largest <= F16_MAX:  # false for NaN, too
        return weights
    found = weights.flat[np.argmax(np.abs(weights))]  # the first NaN counts as the largest
    raise UserError(
        f"{spec.source} holds {found:g}, need numbers from {-F16_MAX:g} to {F16_MAX:g}",
        "fp16 cannot hold this checkpoint; use one whose weights it can.",
    )


def _quantize_rows_int8(weights: Float32, _: Search) -> _Rows:
    codes, scales = quantize_int8(weights)
    return _Rows(order_int8_codes(codes), order_scales(scales), dequantize_int8(codes, scales))


def _quantize_rows_int4(weights: Float32, search: Search) -> _Rows:
    scales = search(weights)
    codes = quantize_int4(weights, scales)
    return _Rows(order_int4_codes(codes), order_scales(scales), dequantize_int4(codes, scales))


def _quantize_rows_f16(weights: Float32, _: Search) -> _Rows:
    rounded = quantize_f16(weights)
    return _Rows(order_f16(rounded), None, dequantize_f16(rounded))


_QUANTIZERS: dict[MatrixFormat, Callable[[Float32, Search], _Rows]] = {
    "int8": _quantize_rows_int8,
    "int4": _quantize_rows_int4,
    "f16": _quantize_rows_f16,
}


def _sum_squares(values: Float32) -> float:
    return float(np.square(values).sum(dtype=np.float64))


def _describe(checkpoint: Checkpoint, format: MatrixFormat, name: str) -> ModelDescription:
    """Nothing here depends on when or where the file is packed: packing twice gives equal bytes."""
    try:
        version = importlib.metadata.version("codegen-complete")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    provenance = {
        "writer": f"codegen-complete {version}",
        "source": checkpoint.path.resolve().name,
        "source_files": ", ".join(file.name for file in checkpoint.files),
        "source_bytes": str(checkpoint.weights_bytes),
    }
    if checkpoint.config.model_type != "codegen":
        provenance["source_model_type"] = checkpoint.config.model_type
    return ModelDescription(
        config=packed_config(checkpoint.config),
        format=format,
        name=_unicode(name),
        tokenizer_json=checkpoint.tokenizer.json,
        provenance={key: _unicode(text) for key, text in provenance.items()},
        tokenizer_settings=checkpoint.tokenizer.settings,
    )


def _notes(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.unused:
        yield f"left out, as the model computes nothing with them: {listed(checkpoint.unused)}"


def _warnings(checkpoint: Checkpoint) -> Iterator[str]:
    """A tokenizer of another model is no reason not to pack: ids may come from elsewhere."""
    largest_id, vocab_size = checkpoint.tokenizer.largest_id, checkpoint.config.vocab_size
    if largest_id >= vocab_size:
        yield (
            f"the tokenizer has ids up to {largest_id}, the model's vocab_size is {vocab_size}: "
            "they do not belong together, so the packed model takes ids but no text"
        )


def _unicode(text: str) -> str:
    """Replace what a file name may hold and JSON may not: bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _files(checkpoint: Checkpoint) -> list[Path]:
    """Return the checkpoint's files that packing reads."""
    read = [checkpoint.path / "config.json", *tokenizer_files(checkpoint.path)]
    return [*checkpoint.files, *read]


def _bits_per_weight(entries: Sequence[TensorEntry]) -> float:
    n_bits = 8 * sum(payload_bytes(entry.format, entry.shape) for entry in entries)
    return n_bits / sum(math.prod(entry.shape) for entry in entries)


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    n_cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(n_cores, _MOST_THREADS)
