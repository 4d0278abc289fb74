"""A checkpoint -> its packed file, with the quantizer's progress and worst tensor on stderr."""

from pathlib import Path

from codegen_cli import console, drawing
from codegen_cli.deadline import Deadline, check_deadline
from codegen_cli.store import settings
from codegen_cli.store.leftovers import remove_unfinished
from quantize.errors import UserError
from quantize.quantize_model import QuantizeSummary, TensorReport
from quantize.quantize_model import quantize as quantize_checkpoint


def pack(
    source: Path,
    name: str,
    format: str,
    target: Path,
    deadline: Deadline = None,
    *,
    tells_tensors: bool = False,
) -> QuantizeSummary:
    """Pack the checkpoint at `source` to `target`; with tells_tensors, tell of each matrix.

    Raises UserError, and TimeUp after the tensor in which the deadline passes; the target is then
    as it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {target.parent}: {error.strerror}",
            "Choose another file with -o, or another home with CODEGEN_HOME.",
        ) from error
    for leftover in remove_unfinished(target):
        size = console.size(leftover.file_bytes)
        console.note(f"removed {leftover.path}, {size}: a run that was killed left it")
    console.note(f"packing {source} as {format}")
    with drawing.progress(f"{name} as {format}") as advance:

        def on_tensor(report: TensorReport) -> None:
            if tells_tensors:
                _show_tensor(report)
            advance(report.index, report.count)
            check_deadline(deadline)

        summary = quantize_checkpoint(source, target, format, name=name, on_tensor=on_tensor)
    worst = summary.worst
    console.note(
        f"packed {summary.path}: {summary.bytes / 1e6:.1f} MB, "
        f"{summary.bits_per_weight:.2f} bits per weight, "
        f"worst {worst.name} ({worst.relative_error:.2%}), {summary.seconds:.1f} s"
    )
    for note in summary.notes:
        console.note(note)
    for warning in summary.warnings:
        console.warn(warning)
    return summary


def make_default_if_first(name: str) -> None:
    """Make a model the default unless there is one, saying so."""
    if settings.set_first_default_model(name):
        console.tip(f"{name} is now the default model of `codegen complete`")


def _show_tensor(report: TensorReport) -> None:
    if report.format != "f32":  # norms and biases are exact
        shape = " x ".join(map(str, report.shape))
        console.note(
            f"[{report.index:3}/{report.count}] {report.name:28} {shape:>13} "
            f"{report.format:4} error {report.relative_error:.2%}"
        )
