"""A checkpoint -> its packed file, with the quantizer's progress and worst tensor on stderr."""

import os
from pathlib import Path

from codegen_cli.contract.deadline import Deadline, TimeUp, check_deadline
from codegen_cli.hub.stored.checkpoint_hashes import require_as_published
from codegen_cli.machine import places
from codegen_cli.models import settings
from codegen_cli.models.local_models import local_files
from codegen_cli.terminal import console, drawing
from quantize.files.errors import UserError
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

    One in the hub's cache is first compared with the hashes that name its files. What a run that
    was ended has packed of the same is gone on with; another process that packs it is waited for.
    Raises UserError, and TimeUp after the tensor in which the deadline passes; the target is then
    as it was.
    """
    require_as_published(source, lambda: check_deadline(deadline))
    _make_directory(target.parent)
    console.note(f"packing {source} as {format}")
    with drawing.progress(f"{name} as {format}") as advance:

        def on_tensor(report: TensorReport) -> None:
            if tells_tensors:
                _show_tensor(report)
            if not report.is_kept:  # which takes no time, and so tells nothing of what is left
                advance(report.done_weights, report.n_weights)
            check_deadline(deadline)

        summary = quantize_checkpoint(
            source,
            target,
            format,
            name=name,
            on_tensor=on_tensor,
            on_part=lambda *part: console.note(_part_told(target, *part)),
            on_wait=lambda: check_deadline(deadline),
            keeps_on=(KeyboardInterrupt, SystemExit, TimeUp),
        )
    console.note(_told(summary))
    for note in summary.notes:
        console.note(note)
    for warning in summary.warnings:
        console.warn(warning)
    return summary


def _part_told(target: Path, what: str, path: Path, file_bytes: int) -> str:
    """Return what to say of an unfinished file; `what` as quantize names it."""
    size = console.size(file_bytes)
    if what == "removed":
        return f"removed {path}, {size}: a run that was killed left it, of something else"
    if what == "adopted":
        return f"going on with {path}, {size}, which a run that was ended left"
    if what == "awaited":
        return f"another process is packing {target}: waiting for it"
    removal = "; `codegen models prune` removes it" if places.is_ours(target.parent) else ""
    return f"kept {path}, {size}: the same command goes on with it{removal}"


def _told(summary: QuantizeSummary) -> str:
    worst = summary.worst
    if worst is None:
        return f"another process has packed {summary.path}: {summary.bytes / 1e6:.1f} MB"
    return (
        f"packed {summary.path}: {summary.bytes / 1e6:.1f} MB, "
        f"{summary.bits_per_weight:.2f} bits per weight, "
        f"worst {worst.name} ({worst.relative_error:.2%}), {summary.seconds:.1f} s"
    )


def make_default_if_first(target: Path) -> None:
    """Make a packed file's model the default unless there is one, saying so.

    Only a model in the models directory: a file elsewhere may go without our knowledge. The work
    that made it is done: settings that cannot be changed are no failure.
    """
    if not places.is_ours(target.parent):
        return
    try:
        for file in local_files():
            if file.path == target.absolute() and settings.set_first_default_model(file.name):
                console.tip(f"{file.name} is now the default model of `codegen complete`")
    except UserError as error:
        console.warn(f"the default model stays as it is: {error.message}")


def _make_directory(directory: Path) -> None:
    """Make a directory for a packed file; UserError unless files can be written to it."""
    hint = "Choose another file with -o, or another home with CODEGEN_HOME."
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {directory}: {error.strerror}", hint) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"this user cannot write to {directory}", hint)


def _show_tensor(report: TensorReport) -> None:
    if report.format != "f32":  # norms and biases are exact
        shape = " x ".join(map(str, report.shape))
        console.note(
            f"[{report.index:3}/{report.count}] {report.name:28} {shape:>13} "
            f"{report.format:4} error {report.relative_error:.2%}"
        )
