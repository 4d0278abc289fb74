"""Streams of many texts and an engine -> what the streams make, each step shared by all of them.

Each step takes the next id, or a draft, of every text under way, and beside them some ids of
prompts, the oldest first: as many as keep those who wait for their next id from waiting long. Texts
come and go between steps (continuous batching: Yu et al., Orca, OSDI 2022).
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from codegen_cli.contract.deadline import remaining
from codegen_cli.contract.engine import Engine, Part, Result
from codegen_cli.contract.part_checks import check_in_time
from codegen_cli.contract.stream import Task
from codegen_cli.decoding.beginnings import LEAST_SHARED, Known, common_length, longest_beginning
from codegen_cli.decoding.running_text import Ended, Text
from codegen_cli.decoding.step_costs import StepCosts

# Parts of at most so many ids are taken whole: single ids, drafts, short texts. The ids of others
# are prompts, which are read in between.
_SHORT = 16

# While prompts are read a step may take so many times as long as without them.
_SLOWER = 5.0
_FEWEST_OF_PROMPT = 8  # ids a step, however long that takes: else a prompt would never be read

# Of finished texts so many caches are kept, as long as there is room: others may begin likewise.
_MOST_KEPT = 2


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
        self._texts: list[Text] = []  # in the order in which they came
        self._kept: deque[Known] = deque(maxlen=_MOST_KEPT)
        self._costs = StepCosts()
        self._id_cost: float | None = None
        self._events: list[tuple[Text, Any]] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do, and nothing to tell."""
        return not self._texts and not self._events

    @property
    def wants_more(self) -> bool:
        """Whether another text would be under way soon."""
        return sum(text.is_waiting for text in self._texts) < self._most_texts

    def add(self, task: Task) -> Text:
        """Take in a text; `step` tells what it makes, and how it ends if it is not as it should be.

        Raises TypeError for ids that are none.
        """
        text = Text(task)
        self._texts.append(text)
        return text

    def remove(self, text: Text) -> None:
        """Let a text go, whether or not it has ended; nothing more is told of it."""
        self._drop(text)
        self._events = [event for event in self._events if event[0] is not text]

    def close(self) -> None:
        """Let all texts go, and what is kept of those that ended."""
        for text in list(self._texts):
            self.remove(text)
        self._kept.clear()

    def step(self) -> list[tuple[Text, Any]]:
        """Run one step of the engine; return what the streams made of it, and Ended of each end.

        An error ends the text whose it is. Raises what a signal handler does (KeyboardInterrupt):
        the next step then goes on as if that had not been, but for a text whose stream was at work.
        That has Ended with an error.
        """
        self._let_in()
        self._go_on()
        chunks = self._chunks()
        if chunks:
            self._read(chunks)
        self._go_on()
        events, self._events = self._events, []
        return events

    def _let_in(self) -> None:
        """Begin the texts that there is room for."""
        is_full = False
        for text in [text for text in self._texts if text.is_waiting]:
            try:
                is_late = remaining(text.task.deadline) == 0.0  # it has nothing to wait for
                is_full = is_full or not self._has_room(text)
                if is_late:
                    cache = self._engine.new_cache(text.task.n_positions)
                    text.begin(Known([], cache))
                elif not (is_full or self._is_read_soon(text)):
                    self._begin(text)
            except Exception as error:
                text.end = Ended(error=error)

    def _begin(self, text: Text) -> None:
        n_positions = text.task.n_positions
        known, n_common = longest_beginning(text.ids, [*self._kept, *self._known()])
        self._forget_kept(text, but=known)
        if known is None:
            cache = self._engine.new_cache(n_positions)
        else:
            cache = self._engine.copy_cache(known.cache, n_common, n_positions)
        self._forget_kept(text)  # whose blocks are now those of the copy
        text.begin(Known(text.ids[:n_common], cache))

    def _has_room(self, text: Text) -> bool:
        others = self._known()  # what is kept makes room
        return not others or (len(others) < self._most_texts and self._fits(text, others))

    def _forget_kept(self, text: Text, but: Known | None = None) -> None:
        """Make room for a text, as far as that is taken by what is kept, the oldest first."""
        for known in list(self._kept):
            if known is not but and not self._fits(text, [*self._known(), *self._kept]):
                self._kept.remove(known)

    def _fits(self, text: Text, others: Sequence[Known]) -> bool:
        """Tell whether the keys and values of a text fit beside others."""
        if self._room_bytes is None:
            return True
        sizes = [*(known.cache.n_positions for known in others), text.task.n_positions]
        return sum(map(self._engine.cache_bytes, sizes)) <= self._room_bytes

    def _known(self) -> list[Known]:
        """Return the caches of the texts under way."""
        return [text.known for text in self._texts if text.known is not None]

    def _is_read_soon(self, text: Text) -> bool:
        """Tell whether a text under way is reading more of a beginning than can be had now."""
        _, n_common = longest_beginning(text.ids, [*self._kept, *self._known()])
        return any(
            min(common_length(text.ids, other.ids), len(text.ids) - 1) >= n_common + LEAST_SHARED
            for other in self._texts
            if other.known is not None and not other.has_begun
        )

    def _chunks(self) -> list[tuple[Text, Part]]:
        """Return what the next step takes of each text."""
        short: list[Text] = []
        prompts: list[Text] = []
        for text in self._texts:
            if text.asked is not None and self._is_in_time(text):
                (short if text.asked.n_left <= _SHORT else prompts).append(text)
        chunks = [chunk for text in short for chunk in self._chunk(text, _SHORT)]
        room = self._room_for_prompts(_n_ids(chunks)) if prompts else 0
        for text in prompts:
            if room > 0:
                chunk = self._chunk(text, room)
                chunks += chunk
                room -= _n_ids(chunk)
        return chunks

    def _is_in_time(self, text: Text) -> bool:
        """Tell whether what a text asked for is still wanted; else it goes on without."""
        assert text.asked is not None
        try:
            check_in_time(text.asked.part)
        except Exception as error:
            text.fail(error)
            return False
        return True

    def _chunk(self, text: Text, n: int) -> list[tuple[Text, Part]]:
        """Return at most n ids of a text; nothing where it asked for what there is not."""
        try:
            return [(text, text.next_part(n))]
        except Exception as error:
            text.fail(error)
            return []

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

    def _read(self, chunks: Sequence[tuple[Text, Part]]) -> None:
        """Have the engine read what it takes of each text, and the texts take what it made."""
        started = time.perf_counter()
        outcomes = self._outcomes([part for _, part in chunks])
        seconds = time.perf_counter() - started
        n_ids = _n_ids(chunks)
        is_whole = not any(isinstance(outcome, Exception) for outcome in outcomes)
        if is_whole and n_ids <= self._engine.n_read:  # else it took several steps
            self._costs.learn(n_ids, seconds)
        self._id_cost = self._costs.id_cost(len(self._known()))
        for (text, part), outcome in zip(chunks, outcomes, strict=True):
            text.take(part, outcome, seconds)

    def _outcomes(self, parts: Sequence[Part]) -> list[Result | Exception]:
        """Return what the engine does; where it raises an error, each part's own."""
        starts = [part.cache.n_past for part in parts]
        try:
            return self._engine.forward(parts)
        except Exception as error:
            if len(parts) == 1:
                return [error]
        outcomes = []
        for part, n_past in zip(parts, starts, strict=True):
            part.cache.n_past = n_past
            outcomes += self._outcomes([part])
        return outcomes

    def _go_on(self) -> None:
        """Have all streams go on that can, and let those go that have ended."""
        for text in [text for text in self._texts if not text.is_waiting]:
            text.go_on(self._events, self._id_cost)
            if text.end is not None:
                try:
                    self._drop(text)
                finally:  # told once, whatever comes between
                    if text not in self._texts:
                        self._events.append((text, text.end))

    def _drop(self, text: Text) -> None:
        if text in self._texts:
            self._texts.remove(text)
            if text.known is not None and text.ids:
                self._kept.append(text.known)
        text.close()


def _n_ids(chunks: Sequence[tuple[Text, Part]]) -> int:
    return sum(len(part.ids) for _, part in chunks)


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
