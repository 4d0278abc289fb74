"""A job and whoever answers its lines -> OUT written, told on stderr: progress, what is left."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from codegen_cli.batch.answer_file import AnswerFile
from codegen_cli.batch.answer_line import Answer
from codegen_cli.batch.job import Job
from codegen_cli.batch.journal import journal_path
from codegen_cli.reports.batch_report import BatchProgress
from codegen_cli.session.cache_room import Shortage
from codegen_cli.terminal import console
from quantize.files.errors import UserError


def run_job(job: Job, answers: Iterable[Answer], name: str) -> None:
    """Write the answers to a job's lines, which come in whatever order.

    name  of the work, for people

    Raises UserError at the end where lines were bad, and what `answers` raises.
    """
    _tell_beginning(job)
    progress = BatchProgress(job.n_lines, job.n_done)
    with _telling_how_to_go_on(job), progress.shown(name):
        for answer in job.write(answers):
            progress.answered(answer.n_tokens)
    if job.n_done > job.n_before or not job.n_before:
        progress.tell()
    if job.n_cut:
        console.warn(
            f"the prompt was too long in {job.n_cut} of {job.n_done} lines, and its beginning is "
            "left out: prompt_characters_dropped in OUT tells in which"
        )
    if job.n_errors:
        raise UserError(
            f"{job.n_errors} of {job.n_done} lines have an error instead of an answer",
            "Each tells what is wrong in its own line of OUT: jq -c 'select(.error)' OUT",
        )


def tell_of_shortage(shortage: Shortage) -> None:
    """Tell that lines wait for others because memory is short."""
    console.note(
        f"{shortage.n_texts} texts of {shortage.n_positions} tokens fit into memory at once "
        f"({console.size(shortage.room_bytes)} free): others wait their turn"
    )


def _tell_beginning(job: Job) -> None:
    path = _path(job)
    if job.n_before and job.n_before == job.n_lines:
        console.note(f"{path} has all {job.n_before} answers already")
    elif job.n_before:
        console.note(f"{path} has {job.n_before} of {job.n_lines} answers: going on")
    else:
        kept = f", kept in {journal_path(path)}" if path and job.n_lines is not None else ""
        console.note(f"seed {job.seed}{kept}")


@contextlib.contextmanager
def _telling_how_to_go_on(job: Job) -> Iterator[None]:
    """However it ends before it is done, tell what is there, and how to go on."""
    try:
        yield
    except BaseException:
        if isinstance(job.output, AnswerFile) and job.n_lines is not None:
            # Counted there: a signal may come between an answer's writing and its counting.
            n_answers = sum(1 for _ in job.output.answers())
            console.note(
                f"{job.output.path} has {n_answers} of {job.n_lines} answers: "
                "the same command goes on"
            )
        raise


def _path(job: Job) -> Path | None:
    """Return where OUT is, if it is a file."""
    return job.output.path if isinstance(job.output, AnswerFile) else None
