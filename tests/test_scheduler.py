"""Texts that share steps: each is what it would be alone, whatever rides along."""

import gc
import random
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from id_tasks import IDS, Watched, ids_alone, new_task, open_small, random_tasks, run

import codegen_cli.decoding
from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.engine import Cancelled, LogProbabilities, Part
from codegen_cli.contract.stream import Task
from codegen_cli.decoding.asked_part import AskedPart
from codegen_cli.decoding.beginnings import Known, common_length, longest_beginning
from codegen_cli.decoding.running_text import Ended
from codegen_cli.decoding.scheduler import Scheduler, texts_that_fit
from codegen_cli.session.one_part import logits_of, run_part

pytestmark = pytest.mark.usefixtures("compiled_kernels")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = open_small(tmp_path_factory.mktemp("model"))
    yield engine
    engine.close()


@pytest.mark.parametrize("seed", range(6))
def test_each_text_is_what_it_would_be_alone(engine, seed):
    choice = random.Random(seed)
    tasks = random_tasks(choice, 12)
    arrivals = [choice.randrange(60) for _ in tasks]
    scheduler = Scheduler(engine, most_texts=choice.choice([1, 3, 16]))
    for task, made in zip(tasks, run(scheduler, tasks, arrivals), strict=True):
        assert made[:-1] == ids_alone(engine, task)
        assert made[-1] == Ended()


def test_samples_of_one_prompt_read_it_once(engine):
    watched = Watched(engine)
    tasks = [new_task(IDS[:150], 10, sample=i, draft=0) for i in range(5)]
    made = run(Scheduler(watched), tasks)
    assert len({tuple(each[:-1]) for each in made}) > 1
    assert [each[:-1] for each in made] == [ids_alone(engine, task) for task in tasks]
    assert sum(map(sum, watched.steps)) == 150 + 4 + 5 * 9


def test_a_beginning_that_prompts_share_is_read_once(engine):
    watched = Watched(engine)
    tasks = [new_task([*IDS[:150], *range(i, 40 + i)], 1) for i in range(4)]
    made = run(Scheduler(watched, most_texts=1), tasks)  # one after another: it is kept
    assert [each[:-1] for each in made] == [ids_alone(engine, task) for task in tasks]
    assert sum(map(sum, watched.steps)) == 150 + 4 * 40


def test_a_long_prompt_comes_in_pieces_while_others_go_on(engine):
    watched = Watched(engine)
    scheduler = Scheduler(watched)
    texts = {scheduler.add(new_task(IDS[i : i + 5], 100, draft=0)): i for i in range(3)}
    for _ in range(10):
        scheduler.step()
    watched.steps.clear()
    late = scheduler.add(new_task(IDS[:300], 5, draft=0))
    made = []
    while not made:
        events = scheduler.step()
        assert {text for text, _ in events} >= set(texts)  # nobody is left out
        made = [item for text, item in events if text is late]
    assert len(watched.steps) > 300 / engine.n_read
    assert all(sum(step) <= engine.n_read for step in watched.steps)


def test_no_more_texts_are_under_way_than_there_is_room_for(engine):
    room = 2 * engine.cache_bytes(60)
    tasks = [new_task(IDS[i : i + 20], 10, draft=0) for i in range(5)]
    watched = Watched(engine)
    made = run(Scheduler(watched, room), tasks)
    assert [each[:-1] for each in made] == [ids_alone(engine, task) for task in tasks]
    assert max(map(len, watched.steps)) == 2 == texts_that_fit(engine, room, 30)
    assert run(Scheduler(engine, 0), tasks[:1])[0][-1] == Ended()  # one is always let in


def test_a_text_that_fails_leaves_the_others(engine):
    def failing(cache):
        yield Part(IDS[:30], cache, 1)
        yield "made"
        yield Part([301], cache, 1)

    tasks = [new_task(IDS[:40]), Task(failing, 64), new_task(IDS[:50], deadline=0.0)]
    good, bad, late = run(Scheduler(engine), tasks)
    assert good[:-1] == ids_alone(engine, tasks[0])
    assert bad[0] == "made"
    assert isinstance(bad[1].error, ValueError)
    assert isinstance(late[0].error, TimeUp)


def test_a_deadline_that_passes_while_waiting_ends_the_text(engine):
    scheduler = Scheduler(engine, most_texts=1)
    scheduler.add(new_task(IDS[:20], 50, draft=0))
    scheduler.step()
    late = scheduler.add(new_task(IDS[:40], deadline=time.monotonic()))
    assert [item.error.__class__ for text, item in scheduler.step() if text is late] == [TimeUp]


def test_a_text_that_is_removed_makes_room(engine):
    scheduler = Scheduler(engine, most_texts=1)
    first, second = (scheduler.add(new_task(IDS[:20], 100)) for _ in range(2))
    assert {text for text, _ in scheduler.step()} == {first}
    scheduler.remove(first)
    assert {text for text, _ in scheduler.step()} == {second}
    scheduler.remove(second)
    assert scheduler.is_idle


# --- what ends a text, and no other ---------------------------------------------------------------


def asking(*parts, **changes):
    """A task whose stream asks for parts of its cache, then makes "done"."""

    def begin(cache):
        for part in parts:
            yield part(cache)
        yield "done"

    return Task(begin, 64)._replace(**changes)


NO_TASKS = [
    asking(n_positions=10**6),
    asking(n_positions=0),
    asking(n_positions="64"),
    asking(deadline="soon"),
    asking(lambda cache: Part(IDS[:30], cache), ids=IDS[:100], n_positions=50),
    Task(lambda cache: 1 / 0, 64),
    Task(lambda cache: "no stream", 64),
    asking(lambda cache: Part(None, cache)),
    asking(lambda cache: Part(IDS[:5], None)),
    asking(lambda cache: Part(IDS[:5], cache, "all")),
    asking(lambda cache: Part(IDS[:5], cache, deadline="soon")),
    asking(lambda cache: Part(IDS[:30], cache, 31)),
    asking(lambda cache: Part(IDS[:30], cache, -1)),
    asking(lambda cache: Part(IDS[:30], cache, 30, "log_probabilities", IDS[:31])),
]


@pytest.mark.parametrize("bad", NO_TASKS)
def test_a_task_that_is_none_ends_alone(engine, bad):
    good = [new_task(IDS[: 100 + i], 5, draft=0) for i in range(2)]
    scheduler = Scheduler(engine, room_bytes=10**9)
    first, ended, last = run(scheduler, [good[0], bad, good[1]])
    assert [first[:-1], last[:-1]] == [ids_alone(engine, task) for task in good]
    assert [
        each.error.__class__ in (TypeError, ValueError, AttributeError, ZeroDivisionError)
        for each in ended
    ] == [True]


def test_an_error_of_the_engine_ends_the_text_whose_it_is(engine):
    watched, forward = Watched(engine), engine.forward

    def failing(parts):
        assert all(7 not in part.ids for part in parts)
        return forward(parts)

    watched.forward = failing
    texts = [[i for i in IDS if i != 7][: 20 + n] for n in range(3)]
    tasks = [asking(lambda cache, ids=ids: Part(ids, cache, 1)) for ids in (*texts, [*texts[0], 7])]
    *good, bad = run(Scheduler(watched), tasks)
    assert good == [["done", Ended()]] * 3
    assert [each.error.__class__ for each in bad] == [AssertionError]


def test_a_stream_that_ends_loudly_hurts_nobody(engine):
    def loud(cache):
        try:
            while True:
                yield Part(IDS[:10], cache)
        finally:
            raise RuntimeError("the end")

    scheduler = Scheduler(engine)
    text = scheduler.add(Task(loud, 64))
    scheduler.step()
    scheduler.remove(text)
    assert scheduler.is_idle


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_prompt_behind_another_ends_when_its_time_is_up(engine, is_cancelled):
    cancel = threading.Event()
    deadline = None if is_cancelled else time.monotonic() + 0.05
    late = asking(lambda cache: Part(IDS[:50], cache, 1, deadline=deadline, cancel=cancel))
    scheduler = Scheduler(engine)
    first, text = scheduler.add(new_task(IDS[:380])), scheduler.add(late)
    events = scheduler.step()
    cancel.set()
    time.sleep(0.06)
    events += scheduler.step()
    assert not first.has_begun
    assert [item.error.__class__ for each, item in events if each is text] == [
        Cancelled if is_cancelled else TimeUp
    ]


def test_in_tight_room_a_beginning_is_used_before_it_goes(engine):
    watched = Watched(engine)
    tasks = [new_task([*IDS[:150], *range(i, 40 + i)], 1) for i in range(4)]
    made = run(Scheduler(watched, engine.cache_bytes(191)), tasks)
    assert [each[:-1] for each in made] == [ids_alone(engine, task) for task in tasks]
    assert sum(map(sum, watched.steps)) == 150 + 4 * 40


def test_a_closed_scheduler_keeps_nothing(engine):
    scheduler = Scheduler(engine)
    ended, under_way = scheduler.add(new_task(IDS[:40], 1)), scheduler.add(new_task(IDS[100:150]))
    scheduler.add(new_task(IDS[:30]))
    while ended.end is None:
        scheduler.step()
    caches = [weakref.ref(text.known.cache) for text in (ended, under_way)]
    scheduler.close()
    assert scheduler.is_idle
    del ended, under_way
    gc.collect()
    assert [cache() for cache in caches] == [None, None]


# --- interruptions --------------------------------------------------------------------------------

DECODING = str(Path(codegen_cli.decoding.__file__).parent)


class Interrupting:
    """Raises KeyboardInterrupt at the nth point of our decoding at which a signal may be heard.

    CPython looks for signals as a function begins and after each call into C.
    """

    def __init__(self, at):
        self.n_points, self._at = 0, at

    def __call__(self, frame, event, argument):
        code = frame.f_code
        if code.co_name == "<genexpr>":  # it may be closing: nobody would hear of it
            return
        if event in ("call", "c_return") and code.co_filename.startswith(DECODING):
            self.n_points += 1
            if self.n_points == self._at:
                raise KeyboardInterrupt


def run_interrupted(scheduler, tasks, interrupting=None):
    """What each task made, by somebody who goes on whatever interrupts a step."""
    made = {scheduler.add(task): [] for task in tasks}
    n_interruptions = 0
    while not scheduler.is_idle:
        sys.setprofile(interrupting)
        try:
            events = scheduler.step()
        except KeyboardInterrupt:
            n_interruptions += 1
        else:
            sys.setprofile(None)
            for text, item in events:
                made[text].append(item)
        finally:
            sys.setprofile(None)
    return list(made.values()), n_interruptions


def short_tasks():
    return [new_task(IDS[: 30 + 10 * i], 4, draft=3, sample=i) for i in range(3)]


def test_whoever_goes_on_after_an_interruption_gets_the_right_texts(engine):
    """Wherever it comes, but for the stream that it hits: that text ends, and says so."""
    counting = Interrupting(-1)
    alone, _ = run_interrupted(Scheduler(engine), short_tasks(), counting)
    n_ended = n_interruptions = 0
    for at in random.Random(3).sample(range(1, counting.n_points), 150):
        found, n = run_interrupted(Scheduler(engine), short_tasks(), Interrupting(at))
        n_interruptions += n
        for made, whole in zip(found, alone, strict=True):
            if isinstance(made[-1].error, KeyboardInterrupt):
                n_ended += 1
                assert made[:-1] == whole[: len(made) - 1]
            else:
                assert made == whole
    # How many points there are hangs on drafts a little, and so on time.
    assert 0 < n_ended < n_interruptions
    assert n_interruptions > 100


@pytest.mark.parametrize("at", [1, 3, 12])
@pytest.mark.parametrize("n_done", [0, 1, 3])
def test_an_interruption_when_some_parts_are_done_changes_no_text(engine, at, n_done):
    watched, forward = Watched(engine), engine.forward

    def interrupted(parts):
        watched.steps.append(parts)
        if len(watched.steps) == at:
            forward(parts[:n_done])
            raise KeyboardInterrupt
        return forward(parts)

    watched.forward = interrupted
    tasks = [new_task(IDS[: 30 + i]) for i in range(3)]
    found, n_interruptions = run_interrupted(Scheduler(watched), tasks)
    assert n_interruptions == 1
    assert [each[:-1] for each in found] == [ids_alone(engine, task) for task in tasks]


def test_a_text_that_goes_after_an_interruption_leaves_no_wrong_beginning(engine):
    """What it had asked for was read, and nobody took it: the cache is ahead of what is known."""
    watched, forward = Watched(engine), engine.forward

    def interrupted(parts):
        forward(parts)
        raise KeyboardInterrupt

    def begin(cache):
        yield Part(IDS[:100], cache)
        cache.n_past = 50
        yield Part(IDS[200:250], cache)

    scheduler = Scheduler(watched)
    text = scheduler.add(Task(begin, 300, IDS[:100]))
    while not text.has_begun:
        scheduler.step()
    watched.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        scheduler.step()
    scheduler.remove(text)
    watched.forward = forward
    task = new_task(IDS[:120], 10)
    assert run(scheduler, [task])[0][:-1] == ids_alone(engine, task)


# --- parts in chunks, beginnings ------------------------------------------------------------------


@pytest.mark.parametrize("n_wanted", [0, 1, 30, 99, None])
@pytest.mark.parametrize("wanted", ["logits", "hidden_states", "log_probabilities"])
def test_a_part_in_chunks_gives_what_it_gives_whole(engine, wanted, n_wanted):
    n = 100 if n_wanted is None else n_wanted
    targets = IDS[:n] if wanted == "log_probabilities" else ()

    def part():
        return Part(IDS[100:200], engine.new_cache(), n_wanted, wanted, targets)

    whole = run_part(engine, part())
    asked = AskedPart(part())
    for n_ids in (7, 64, 64):
        assert not asked.is_read
        run_part(engine, asked.chunk(n_ids))  # whose result is lost
        chunk = asked.chunk(n_ids)
        asked.take(len(chunk.ids), run_part(engine, chunk), 0.5)
    assert asked.is_read
    assert asked.seconds == 1.5
    found = asked.result()
    if isinstance(whole, LogProbabilities):
        assert all(map(np.array_equal, found, whole))
    else:
        assert np.array_equal(found, whole)


def test_the_longest_beginning_is_found_and_never_all(engine):
    cache = engine.new_cache()
    logits_of(engine, IDS[:100], cache)
    known = [Known(IDS[:100], cache), Known(IDS[:50], cache)]
    assert longest_beginning(IDS, known) == (known[0], 100)
    assert longest_beginning(IDS[:80], known) == (known[0], 79)
    assert longest_beginning(IDS[:10], known) == (None, 0)
    assert longest_beginning([1, *IDS], known)[0] is None
    cache.n_past = 30
    assert longest_beginning(IDS, known) == (known[0], 30)


def test_the_common_length_of_two_texts():
    choice = random.Random(1)
    for _ in range(200):
        a, b = ([choice.randrange(2) for _ in range(choice.randrange(12))] for _ in range(2))
        n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        assert common_length(a, b) == (min(len(a), len(b)) if n is None else n)
