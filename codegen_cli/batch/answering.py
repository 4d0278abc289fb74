"""Lines and a model -> their answers, in whatever order, a bounded number of lines ahead."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, cast

from codegen_cli.batch.answer_line import Answer, completed, refused
from codegen_cli.batch.bad_line import BadLine
from codegen_cli.batch.line import Line
from codegen_cli.batch.request_line import LineRequest, request_of
from codegen_cli.batch.settings import Settings
from codegen_cli.contract.engine import Identity
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.models.registry import name_with_format
from codegen_cli.session.cache_room import OnShortage, Shortage
from codegen_cli.session.generation import Request
from codegen_cli.session.loading import load
from codegen_cli.session.sample import Sample
from codegen_cli.text.text_side import Prompt
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.session.language_model import LanguageModel

# How far lines are read on while an early one is unfinished: of their bytes, and some for each.
_AHEAD_BYTES = 64 << 20
_LINE_BYTES = 1 << 10


class Answerer(NamedTuple):
    """Who answers the lines of a job, wherever.

    model     its name, as answers state it
    identity  what its numbers depend on
    answers   yields the answer to each line, in whatever order; lines are taken as there is room
    """

    model: str
    identity: Identity
    answers: Callable[[Iterable[Line], Settings], Iterator[Answer]]


@contextlib.contextmanager
def on_this_machine(
    model: str | None,
    threads: int | None,
    *,
    device: str | None,
    ignore_memory: bool,
    on_shortage: OnShortage | None = None,
) -> Iterator[Answerer]:
    """Yield who answers lines in this process.

    on_shortage  as answer_lines takes it; other arguments, and errors, as session.loading.load
    """
    with load(model, threads, device=device, notes=True, ignore_memory=ignore_memory) as loaded:
        name = name_with_format(loaded.name, loaded.format)
        yield Answerer(
            name, loaded.identity, partial(answer_lines, loaded, on_shortage=on_shortage)
        )


def answer_lines(
    model: "LanguageModel",
    lines: Iterable[Line],
    settings: Settings,
    on_shortage: OnShortage | None = None,
) -> Iterator[Answer]:
    """Yield the answer to each line, as soon as it is there; lines are taken as there is room.

    on_shortage  as of LanguageModel.generate_many

    Raises UserError where not the line is to blame: memory is short, or the model is damaged.
    """
    return _Answering(model, settings, on_shortage).run(iter(lines))


@dataclass(slots=True)
class _Growing:
    """A line that is being answered: what there is of each of its texts."""

    line: Line
    request: LineRequest
    begin_bytes: int
    samples: list[Sample]

    @property
    def has_ended(self) -> bool:
        """Whether the last of its texts has ended."""
        return all(sample.end for sample in self.samples)


class _Answering:
    """The lines under way, by their place, and answers that were there at once."""

    def __init__(
        self, model: "LanguageModel", settings: Settings, on_shortage: OnShortage | None
    ) -> None:
        self._model = model
        self._settings = settings
        self._on_shortage = on_shortage
        self._growing: dict[int, _Growing] = {}
        self._ready: deque[Answer] = deque()
        self._read_bytes = self._drained_bytes = 0

    def run(self, lines: Iterator[Line]) -> Iterator[Answer]:
        # A round ends where it is far ahead of its oldest line: the next begins with none.
        for line in lines:
            requests = self._requests(chain([line], lines))
            for request, item in self._model.generate_many(requests, self._tell_once):
                yield from self._drained()
                yield from self._taken(request, item)
            yield from self._drained()

    def _requests(self, lines: Iterator[Line]) -> Iterator[Request]:
        while not self._is_far_ahead() and (line := next(lines, None)):
            begin_bytes = self._read_bytes
            self._read_bytes += len(line.content) + _LINE_BYTES
            try:
                asked = request_of(line, self._settings)
            except BadLine as bad:
                self._ready.append(refused(line, bad))
                continue
            self._growing[line.place] = growing = _Growing(
                line, asked, begin_bytes, _samples_of(asked)
            )
            yield from _requests_of(growing)

    def _tell_once(self, shortage: Shortage) -> None:
        if self._on_shortage:
            self._on_shortage(shortage)
            self._on_shortage = None

    def _is_far_ahead(self) -> bool:
        oldest = next(iter(self._growing.values()), None)
        since = oldest.begin_bytes if oldest else self._drained_bytes
        return self._read_bytes - since > _AHEAD_BYTES

    def _drained(self) -> Iterator[Answer]:
        while self._ready:
            yield self._ready.popleft()
        self._drained_bytes = self._read_bytes

    def _taken(self, request: Request, item: Piece | Summary | UserError) -> Iterator[Answer]:
        """Take what was made of a line; yield its answer if that was the last."""
        place, index = cast(tuple[int, int], request.key)
        growing = self._growing[place]
        if isinstance(item, UserError):
            raise UserError(f"line {growing.line.number}: {item.message}", item.hint) from item
        growing.samples[index].take(item)
        if growing.has_ended:
            del self._growing[place]
            yield completed(growing.line, growing.request, growing.samples, self._settings)


def _samples_of(asked: LineRequest) -> list[Sample]:
    """Return a text for each choice, which is what its index as a sample gives alone."""
    n_choices = asked.n * len(asked.prompts)
    return [Sample(replace(asked.options, sample=index)) for index in range(n_choices)]


def _requests_of(growing: _Growing) -> Iterator[Request]:
    asked = growing.request
    for index, sample in enumerate(growing.samples):
        text = asked.prompts[index // asked.n]
        prompt = Prompt(text, asked.options.max_tokens, asked.special_tokens)
        yield Request((growing.line.place, index), prompt, sample.options)
