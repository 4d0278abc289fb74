"""A table of lines -> a table of their answers, in a process that Ray starts on some node.

What a user can mend is no exception here but a row, a Failure: Ray would wrap it, log it and count
it as a crash.
"""

from typing import TYPE_CHECKING, NamedTuple

from codegen_cli.batch.answering import answer_lines
from codegen_cli.batch.settings import Settings
from codegen_cli.cluster import pieces
from codegen_cli.cluster.messages import Failure
from codegen_cli.cluster.model_copy import SharedModel, bring_model
from codegen_cli.cluster.tables import items_of, table_of
from codegen_cli.cluster.versions import Versions, require_same, versions
from codegen_cli.contract.device_name import CPU
from codegen_cli.contract.engine import Identity
from codegen_cli.session.loading import load_model
from codegen_cli.terminal import console
from codegen_cli.text.text_side import TextSide
from quantize.files.errors import UserError
from quantize.packed.packed_header import read_packed_header

if TYPE_CHECKING:
    import pyarrow as pa

    from codegen_cli.session.language_model import LanguageModel


class Work(NamedTuple):
    """What all workers of a job have in common.

    n_threads  of each, and CPUs that it reserves
    identity   what the numbers of the driver's model depend on
    driver     the node that has the model
    """

    model: SharedModel
    settings: Settings
    n_threads: int
    ignore_memory: bool
    versions: Versions
    identity: Identity
    driver: str


class Worker:
    """Holds the model, and answers; Ray Data makes one in each process of its pool."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._model: LanguageModel | None = None
        self._failure: Failure | None = None
        try:
            with console.silence():
                self._model = _load(work)
        except UserError as error:
            self._failure = _told_with_node(error)

    def __call__(self, lines: "pa.Table") -> "pa.Table":
        """Return the answers to lines, in their order; or a Failure instead of them."""
        if self._model is None:
            return table_of([self._failure])
        try:
            answers = [*answer_lines(self._model, items_of(lines), self._work.settings)]
        except UserError as error:
            return table_of([_told_with_node(error)])
        answers.sort(key=lambda answer: answer.place)
        return table_of(answers)


def _load(work: Work) -> "LanguageModel":
    # A node that has joined after all others were asked has been asked nothing yet.
    require_same(versions(), work.versions, "this node")
    path = bring_model(work.model, pieces.reader(work.model, work.driver))
    model = load_model(
        TextSide(read_packed_header(path)),
        work.model.name,
        work.n_threads,
        CPU,
        ignore_memory=work.ignore_memory,
    )
    if model.identity != work.identity:
        raise UserError(f"the model is {model.identity}, need {work.identity}")
    return model


def _told_with_node(error: UserError) -> Failure:
    return Failure(f"on node {pieces.this_node()}: {error.message}", error.hint)
