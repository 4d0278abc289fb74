"""IN and OUT as a command names them -> a Job, begun or gone on with."""

import contextlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from codegen_cli.batch.answer_file import AnswerFile
from codegen_cli.batch.job import Job, Output
from codegen_cli.batch.journal import (
    Journal,
    journal_path,
    read_journal,
    require_same,
    write_journal,
)
from codegen_cli.batch.settings import Settings
from codegen_cli.batch.source import Source
from codegen_cli.contract.engine import Identity
from codegen_cli.contract.version import __version__
from codegen_cli.decoding.random_draws import fresh_seed
from codegen_cli.terminal import streams
from quantize.files.errors import UserError
from quantize.files.input_file import exists
from quantize.files.whole_file import blaming, write_all


class _Stream:
    """What takes bytes and keeps none that could be read again; None: stdout."""

    def __init__(self, path: Path | None = None, file: FileIO | None = None) -> None:
        self._path, self._file = path, file

    def append(self, line: bytes) -> None:
        if self._path and self._file:
            write_all(self._file, memoryview(line), self._path)
        else:
            streams.write_result(line)


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[Output]:
    """Yield where answers go: a file of this process alone, a device or pipe, or stdout (None).

    Raises UserError for what cannot be written, or is written by another process.
    """
    if path is None:
        yield _Stream()
    elif exists(path) and not path.is_file():
        with blaming(path):
            file = FileIO(path, "wb")
        with file:
            yield _Stream(path, file)
    else:
        with AnswerFile(path) as answers:
            yield answers


def begin_job(
    source: Source, output: Output, settings: Settings, identity: Identity, seed: int | None
) -> Job:
    """Return a job; one from a file to a file goes on where it was.

    seed  None: that of the job so far, else a fresh one

    Raises UserError for an OUT that belongs to something else, naming what differs.
    """
    if not isinstance(output, AnswerFile):
        return Job(source, output, fresh_seed() if seed is None else seed)
    kept = read_journal(journal_path(output.path))
    if output.is_empty:
        kept = None  # of a job that never had an answer
    elif kept is None or source.content is None:
        raise _foreign(output.path, source)
    if seed is None:
        seed = kept.seed if kept else fresh_seed()
    if source.content is not None:
        journal = _journal(source, settings, identity, seed)
        if kept:
            require_same(kept, journal, output.path)
        else:
            write_journal(journal_path(output.path), journal)
    job = Job(source, output, seed)
    job.go_on(output)
    return job


def _foreign(path: Path, source: Source) -> UserError:
    if source.content is None:
        what, hint = "is there already", "only a job that reads a file goes on"
    else:
        what, hint = "is there already, and no job began it", f"{journal_path(path)} is missing"
    return UserError(f"{path} {what}", f"Choose another OUT with -o, or remove that one: {hint}.")


def _journal(source: Source, settings: Settings, identity: Identity, seed: int) -> Journal:
    assert source.content
    return Journal(
        version=__version__,
        model=settings.model,
        identity=identity._asdict(),
        options=settings.options,
        created=settings.created,
        seed=seed,
        in_bytes=source.content.n_bytes,
        in_sha256=source.content.sha256,
    )
