"""Streams of many texts and an engine -> what the streams make, each step shared by all of them.

Each step takes the next id, or a draft, of every text under way, and beside them some ids of
prompts, the oldest first: as many as keep those who wait for their next id from waiting long. Texts
come and go between steps (continuous batching: Yu et al., Orca, OSDI 2022).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from codegen_cli.contract.deadline import remaining
from codegen_cli.contract.engine import Engine, Part, Result
from codegen_cli.contract.stream import Answer, Task
from codegen_cli.decoding.asked_part import AskedPart
from codegen_cli.decoding.beginnings import LEAST_SHARED, Known, common_length, longest_beginning
from codegen_cli.decoding.step_costs import StepCosts
from quantize.files.errors import UserError

# Parts of at most so many ids are taken whole: single ids, drafts, short texts. The ids of others
# are prompts, which are read in between.
_SHORT = 16

# While prompts are read a step may take so many times as long as without them.
_SLOWER = 5.0
_FEWEST_OF_PROMPT = 8  # ids a step, however long that takes: else a prompt would never be read

# Of finished texts so many caches are kept, as long as there is room: others may begin likewise.
_MOST_KEPT = 2


class Ended(NamedTuple):
    """How a text ended: what its stream returned, or the error that it raised."""

    value: Any = None
    error: Exception | None = None


class Text:
    """A text under way, or waiting for its turn."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.known: Known | None = None  # once it has a cache
        self.asked: AskedPart | None = None
        self.has_begun = False  # its first part has been read
        self._stream: Any = None
        self._next: Callable[[], Any] | None = None

    def begin(self, known: Known) -> None:
        """Make the stream, with a cache of its own."""
        self.known = known
        self._stream = self.task.begin(known.cache)
        self._next = partial(self._stream.send, None)

    def answer(self, answer: Answer) -> None:
        """Have the stream go on with what it asked for."""
        self.asked, self.has_begun = None, True
        self._next = partial(self._stream.send, answer)

    def fail(self, error: Exception) -> None:
        """Have the stream go on with an error."""
        assert self.asked is not None
        self.asked.forget()
        self.asked = None
        self._next = partial(self._stream.throw, error)

    def made(self) -> Iterator[Any]:
        """Yield what the stream makes until it asks for something, or Ended."""
        while self._next is not None:
            step, self._next = self._next, None
            try:
                item = step()
            except StopIteration as end:
                yield Ended(end.value)
            except Exception as error:
                yield Ended(error=error)
            else:
                if isinstance(item, Part):
                    self.asked = AskedPart(item)
                    return
                self._next = partial(self._stream.send, None)
                yield item

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()


class Scheduler:
    """Runs the streams of many texts on one engine; not to be used by two threads at once.

    most_texts   that are under way at a time
    room_bytes   for their keys and values, None: of no interest; one text is always let in

    A text that is added waits until there is room for it, and while another is about to read what
    it begins with: then it goes on from there.
    """

    def __init__(
        self, engine: Engine, room_bytes: int | None = None, most_texts: int | None = None
    ) -> None:
        self._engine = engine
        self._room_bytes = room_bytes
        self._most_texts = most_texts or default_most_texts(engine)
        self._waiting: deque[Text] = deque()
        self._texts: list[Text] = []
        self._kept: deque[Known] = deque(maxlen=_MOST_KEPT)
        self._costs = StepCosts()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._texts and not self._waiting

    @property
    def wants_more(self) -> bool:
        """Whether another text would be under way soon."""
        return len(self._waiting) < self._most_texts

    def add(self, task: Task) -> Text:
        """Take in a text; `step` tells what it makes."""
        text = Text(task)
        self._waiting.append(text)
        return text

    def remove(self, text: Text) -> None:
        """Let a text go, whether or not it has ended."""
        if text in self._waiting:
            self._waiting.remove(text)
        if text in self._texts:
            self._texts.remove(text)
            if text.known is not None and text.task.ids:
                self._kept.append(text.known)
        text.close()

    def step(self) -> list[tuple[Text, Any]]:
        """Run one step of the engine; return what the streams made of it, and Ended of each end.

        Raises what Engine.forward does; then all is as it was before.
        """
        events = self._let_in()
        chunks = self._chunks()
        if not chunks:
            return events
        started = time.perf_counter()
        outcomes = self._engine.forward([part for _, part in chunks])
        seconds = time.perf_counter() - started
        n_ids = sum(len(part.ids) for _, part in chunks)
        if n_ids <= self._engine.n_read:  # else it took several steps
            self._costs.learn(n_ids, seconds)
        cost = self._costs.id_cost(len(self._texts))
        for (text, part), outcome in zip(chunks, outcomes, strict=True):
            self._take(text, part, outcome, seconds, cost)
        for text, _ in chunks:
            events += self._made(text)
        return events

    def _let_in(self) -> list[tuple[Text, Any]]:
        """Begin the texts that there is room for; return what they make at once."""
        events: list[tuple[Text, Any]] = []
        is_full = False
        for text in list(self._waiting):
            is_late = remaining(text.task.deadline) == 0.0  # it has nothing to wait for
            is_full = is_full or not self._has_room(text)
            if is_late or not (is_full or self._is_read_soon(text)):
                self._waiting.remove(text)
                events += self._begin(text)
        return events

    def _begin(self, text: Text) -> list[tuple[Text, Any]]:
        ids, n_positions = text.task.ids, text.task.n_positions
        known, n_common = longest_beginning(ids, self._known())
        try:
            if known is None:
                cache = self._engine.new_cache(n_positions)
            else:
                cache = self._engine.copy_cache(known.cache, n_common, n_positions)
        except UserError as error:
            return [(text, Ended(error=error))]
        self._texts.append(text)
        text.begin(Known(list(ids[:n_common]), cache))
        return self._made(text)

    def _has_room(self, text: Text) -> bool:
        if len(self._texts) >= self._most_texts:
            return False
        while self._kept and not self._fits(text):
            self._kept.popleft()
        return not self._texts or self._fits(text)

    def _fits(self, text: Text) -> bool:
        """Tell whether the keys and values of a text fit beside those of the others."""
        if self._room_bytes is None:
            return True
        caches = [known.cache.n_positions for known in self._known()]
        needed = sum(map(self._engine.cache_bytes, [*caches, text.task.n_positions]))
        return needed <= self._room_bytes

    def _known(self) -> list[Known]:
        return [*self._kept, *(text.known for text in self._texts if text.known is not None)]

    def _is_read_soon(self, text: Text) -> bool:
        """Tell whether a text under way is reading more of a beginning than can be had now."""
        ids = text.task.ids
        _, n_common = longest_beginning(ids, self._known())
        return any(
            min(common_length(ids, other.task.ids), len(ids) - 1) >= n_common + LEAST_SHARED
            for other in self._texts
            if not other.has_begun
        )

    def _chunks(self) -> list[tuple[Text, Part]]:
        """Return what the next step takes of each text."""
        asking = [(text, text.asked) for text in self._texts if text.asked is not None]
        chunks = [(text, asked.chunk(_SHORT)) for text, asked in asking if asked.n_left <= _SHORT]
        room = self._room_for_prompts(sum(len(part.ids) for _, part in chunks))
        for text, asked in asking:
            if asked.n_left > _SHORT and room > 0:
                chunks.append((text, asked.chunk(room)))
                room -= len(chunks[-1][1].ids)
        return chunks

    def _room_for_prompts(self, n_others: int) -> int:
        """Return how many ids of prompts a step takes beside those of other texts."""
        most = max(self._engine.n_read - n_others, _FEWEST_OF_PROMPT)
        if n_others == 0:
            return most
        usual = self._costs.seconds(n_others)
        n = _FEWEST_OF_PROMPT
        while n < most and self._costs.seconds(n_others + n + 1) <= _SLOWER * usual:
            n += 1
        return n

    def _take(
        self,
        text: Text,
        part: Part,
        outcome: Result | Exception,
        seconds: float,
        cost: float | None,
    ) -> None:
        """Hand a text what the step made for it."""
        assert text.asked is not None
        assert text.known is not None
        if isinstance(outcome, Exception):
            text.fail(outcome)
            return
        ids = text.known.ids
        assert isinstance(ids, list)
        ids[part.cache.n_past - len(part.ids) :] = part.ids
        if text.asked.take(len(part.ids), outcome, seconds):
            text.answer(Answer(text.asked.result(), text.asked.seconds, cost))

    def _made(self, text: Text) -> list[tuple[Text, Any]]:
        events = []
        for item in text.made():
            events.append((text, item))
            if isinstance(item, Ended):
                self.remove(text)
        return events


def default_most_texts(engine: Engine) -> int:
    """Return how many texts are worth having under way at a time.

    Of more ids in a step than some 16 a CPU's arithmetic is the limit: they would all be slower by
    as much as there are more of them. A quarter of what a step takes leaves room for drafts and for
    the next prompt.
    """
    return max(1, engine.n_read // 4)


def texts_that_fit(engine: Engine, room_bytes: int, n_positions: int) -> int:
    """Return how many texts of so many ids, completions included, fit into memory at a time."""
    return max(1, room_bytes // engine.cache_bytes(n_positions))
