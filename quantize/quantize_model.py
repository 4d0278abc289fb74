"""A checkpoint and a format -> a packed file, one portion of the rows in memory at a time."""

import importlib.metadata
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from quantize.checkpoint.reading import WEIGHT_FILES, Checkpoint, open_checkpoint
from quantize.checkpoint.tokenizer_files import tokenizer_files
from quantize.containers.source_tensor import TensorStack
from quantize.description.config import packed_config
from quantize.description.formats import MATRIX_FORMATS, Format, MatrixFormat
from quantize.description.tensor_map import TensorSpec, listed, match_tensors, tensor_specs
from quantize.files.errors import UserError
from quantize.files.input_file import unreadable
from quantize.files.partial_file import BeingWritten, is_held
from quantize.pack_tensor import NumpyRounder, PayloadMemory, Rounder, pack_tensor
from quantize.packed import journal
from quantize.packed.layout import Shape, payload_bytes
from quantize.packed.packed_writer import (
    ModelDescription,
    PackedPlan,
    Resuming,
    TensorEntry,
    packed_writer,
)
from quantize.packed.sizes import stored_format
from quantize.rounding.rounding_process import shared_process

# Higher whenever the same weights get other codes than before: what was begun is not gone on with.
_QUANTIZER_VERSION = 1
# With fewer weights than this, int8 and f16 are done before a process for them would be ready.
_WORTH_A_PROCESS = 1 << 27
# Beyond this, reading the checkpoint and not the arithmetic takes the time.
_MOST_THREADS = 16
_POLL_SECONDS = 0.1

_INTERRUPTIONS = (KeyboardInterrupt, SystemExit)


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor done: the index-th of count, counted from 1.

    relative_error  rms of what rounding moved the weights by / rms of the weights
    done_weights    of this tensor and all before it, of n_weights in the model
    is_kept         whether a run that was ended before had packed it already
    """

    index: int
    count: int
    name: str
    format: Format
    shape: Shape
    relative_error: float
    done_weights: int
    n_weights: int
    is_kept: bool


@dataclass(frozen=True, slots=True)
class QuantizeSummary:
    """A packed file done.

    bytes            of the file
    bits_per_weight  of all payloads, over all weights, norms and biases
    worst            the tensor with the largest relative error; None where another process, which
                     this one has waited for, has packed the same
    warnings         what was packed all the same but is not as it should be, a sentence each
    notes            what was left out, a sentence each
    """

    path: Path
    bytes: int
    bits_per_weight: float
    worst: TensorReport | None
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
    on_part: Callable[[str, Path, int], None] = lambda what, path, file_bytes: None,
    on_wait: Callable[[], None] = lambda: None,
    keeps_on: tuple[type[BaseException], ...] = _INTERRUPTIONS,
) -> QuantizeSummary:
    """Pack the checkpoint at `source` (a directory or a weight file) as int8, int4 or f16.

    name       what the packed file calls its model, if anything
    on_tensor  called as each tensor is done
    on_part    told of unfinished files of this target: Resuming.on_part; and "awaited", of another
               process that is packing it
    on_wait    called again and again while another process packs the same target; may raise
    keeps_on   what may be raised without the work being lost: what is packed by then stays beside
               the target, and the next call with the same arguments and files goes on with it

    Raises UserError for a checkpoint that cannot be read or holds a value beyond fp16's range, and
    for a target that cannot be written or holds something else than a packed model; the source is
    never touched, and the target stays as it was unless all went well.
    """
    start_seconds = time.perf_counter()
    source, target = Path(source), Path(target)
    if format not in MATRIX_FORMATS:
        raise UserError(f"unknown format {format!r}", f"Use {', '.join(MATRIX_FORMATS)}.")
    checkpoint = open_checkpoint(source)
    _refuse_to_hide(checkpoint, target)
    pairs = match_tensors(tensor_specs(checkpoint.config), checkpoint.tensors, str(checkpoint.path))
    plan = _plan(checkpoint, target, format, name or "")
    resuming = Resuming(_state(checkpoint), keeps_on, on_part)
    worst = None
    while True:
        try:
            size_bytes, worst = _pack(plan, pairs, resuming, on_tensor or (lambda report: None))
            break
        except BeingWritten as other:
            on_part("awaited", other.partial, 0)
            if _has_packed(other.partial, plan, resuming, on_wait):
                size_bytes = target.stat().st_size
                break
    return QuantizeSummary(
        path=target,
        bytes=size_bytes,
        bits_per_weight=_bits_per_weight(plan.entries),
        worst=worst,
        seconds=time.perf_counter() - start_seconds,
        warnings=tuple(_warnings(checkpoint)),
        notes=tuple(_notes(checkpoint)),
    )


def _pack(
    plan: PackedPlan,
    pairs: Sequence[tuple[TensorSpec, TensorStack]],
    resuming: Resuming,
    on_tensor: Callable[[TensorReport], None],
) -> tuple[int, TensorReport]:
    """Write the packed file; return its bytes and the tensor with the largest relative error."""
    reports: list[TensorReport] = []
    n_weights = _n_weights(plan.entries)

    def report(error: float, *, is_kept: bool) -> None:
        index, entry = len(reports), plan.entries[len(reports)]
        done = _n_weights(plan.entries[: index + 1])
        what = index + 1, len(plan.entries), entry.name, entry.format, entry.shape
        reports.append(TensorReport(*what, error, done, n_weights, is_kept))
        on_tensor(reports[-1])

    with ExitStack() as closing:
        writer = closing.enter_context(packed_writer(plan, resuming))
        rounder: Rounder = NumpyRounder()
        if plan.model.format == "int4" or n_weights >= _WORTH_A_PROCESS:
            rounder = closing.enter_context(shared_process())
        threads = ThreadPoolExecutor(_usable_cores() + 1)
        # Whoever interrupts does not wait for portions in work.
        closing.callback(threads.shutdown, wait=False, cancel_futures=True)
        memory = PayloadMemory(max(payload_bytes(each.format, each.shape) for each in plan.entries))
        for line in writer.lines[: writer.kept]:
            report(line.error, is_kept=True)
        for (spec, tensor), entry in [*zip(pairs, plan.entries, strict=True)][writer.kept :]:
            payload, error = pack_tensor(spec, tensor, entry.format, memory, threads, rounder)
            writer.add(payload, error)
            report(error, is_kept=False)
    return writer.size_bytes, max(reports, key=lambda report: report.relative_error)


def _has_packed(
    partial: Path, plan: PackedPlan, resuming: Resuming, on_wait: Callable[[], None]
) -> bool:
    """Wait for the process that writes `partial`; tell whether it is the target now, and ours."""
    identity, is_same = plan.identity(resuming.source), False
    try:
        with partial.open("rb", buffering=0) as file:
            while is_held(file):
                is_same = is_same or journal.names(file, identity)
                on_wait()
                time.sleep(_POLL_SECONDS)
            return is_same and os.path.samestat(os.fstat(file.fileno()), plan.target.stat())
    except OSError:  # it has gone
        return False


def _refuse_to_hide(checkpoint: Checkpoint, target: Path) -> None:
    """Raise a UserError for a target that would be read as the source's weights from then on."""
    is_beside = target.parent.resolve() == checkpoint.path.resolve()
    if is_beside and target.name in WEIGHT_FILES and not target.exists():
        raise UserError(
            f"cannot write {target}: it would be read as the checkpoint's weights",
            "Choose another target.",
        )


def _plan(checkpoint: Checkpoint, target: Path, format: MatrixFormat, name: str) -> PackedPlan:
    entries = [
        TensorEntry(spec.name, stored_format(spec, format), spec.shape)
        for spec in tensor_specs(checkpoint.config)
    ]
    return PackedPlan(target, _describe(checkpoint, format, name), entries, _files(checkpoint))


def _state(checkpoint: Checkpoint) -> bytes:
    """Return what tells these files, and this quantizer, from others of the same names."""
    parts = [f"quantizer {_QUANTIZER_VERSION}"]
    for file in _files(checkpoint):
        try:
            status = file.stat()
        except OSError as error:
            raise unreadable(file, error) from error
        parts.append(f"{file.name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(parts).encode("utf-8", "surrogateescape")


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
    return n_bits / _n_weights(entries)


def _n_weights(entries: Sequence[TensorEntry]) -> int:
    return sum(math.prod(entry.shape) for entry in entries)


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    n_cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(n_cores, _MOST_THREADS)
