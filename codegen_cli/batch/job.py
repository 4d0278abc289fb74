"""IN, OUT and what holds for all lines -> the lines still to answer, and OUT with their answers.

Whoever answers takes lines() and gives the answers to write(), in whatever order: answer_lines in
this process, or many elsewhere.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from codegen_cli.batch.answer_file import AnswerFile
from codegen_cli.batch.answer_line import Answer, answer_id, tells_of_cut
from codegen_cli.batch.journal import journal_path
from codegen_cli.batch.line import Line, keyed_lines
from codegen_cli.batch.source import Source
from quantize.files.errors import UserError


class Output(Protocol):
    """Where answers go, in IN's order."""

    def append(self, line: bytes) -> None:
        """Take a whole line."""


class Job:
    """One run over IN.

    seed      of the job
    n_lines   that IN has to answer; None as long as that is not known
    n_done    that OUT has answers to, n_errors of them that say why there is none
    n_cut     of these, whose prompt was too long
    n_before  of these, that a run before this one made
    """

    def __init__(self, source: Source, output: Output, seed: int) -> None:
        self.seed = seed
        self.n_lines = source.content.n_lines if source.content else None
        self.n_done = self.n_before = self.n_errors = self.n_cut = 0
        self.output = output
        self._lines = keyed_lines(source.pieces(), seed)

    def lines(self) -> Iterator[Line]:
        """Return the lines that are still to be answered, in their order; to be taken once."""
        return self._lines

    def write(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Write answers in IN's order, whatever their own; yield each once it is written."""
        waiting: dict[int, Answer] = {}
        for answer in answers:
            waiting[answer.place] = answer
            while ready := waiting.pop(self.n_done, None):
                self.output.append(ready.content)
                self._count(is_error=ready.is_error, is_cut=ready.is_cut)
                yield ready

    def go_on(self, file: AnswerFile) -> None:
        """Pass over the lines that a file has answers to; cut off what a kill left of one more."""
        end = 0
        for content in file.answers():
            line = next(self._lines, None)
            fields = _fields(content)
            if line is None or fields.get("id") != answer_id(line):
                raise self._changed(file.path, line)
            self._count(is_error=fields.get("error") is not None, is_cut=tells_of_cut(fields))
            end += len(content) + 1
        self.n_before = self.n_done
        file.cut(end)

    def _changed(self, path: Path, line: Line | None) -> UserError:
        question = "any line" if line is None else f"line {line.number} of the input"
        return UserError(
            f"{path} has been changed: its line {self.n_done + 1} is no answer to {question}",
            f"Put it back, or begin anew: remove {path} and {journal_path(path)}.",
        )

    def _count(self, *, is_error: bool, is_cut: bool) -> None:
        self.n_done += 1
        self.n_errors += is_error
        self.n_cut += is_cut


def _fields(content: bytes) -> dict[str, object]:
    """Return the fields of an answer; none of what is no answer."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
