"""Texts that share steps: each is what it would be alone, whatever rides along."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from golden import sharpened

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.engine import LogProbabilities, Part
from codegen_cli.contract.stream import Task
from codegen_cli.decoding.asked_part import AskedPart
from codegen_cli.decoding.beginnings import Known, common_length, longest_beginning
from codegen_cli.decoding.id_stream import IdStream
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.phase_times import PhaseTimes
from codegen_cli.decoding.scheduler import Ended, Scheduler, texts_that_fit
from codegen_cli.session.driver import drive, finish
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of, run_part
from codegen_cli.session.service import Service
from quantize.quantize_model import quantize

pytestmark = pytest.mark.usefixtures("compiled_kernels")

N_POSITIONS = 400
IDS = np.random.default_rng(5).integers(0, 300, N_POSITIONS).tolist()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    config = small_config(vocab_size=301, n_positions=N_POSITIONS)
    write_checkpoint(directory, config, sharpened(random_tensors(config, seed=1)))
    quantize(directory, directory / "packed", "int8")
    engine = open_engine(directory / "packed", n_threads=2)
    yield engine
    engine.close()


class Watched:
    """An engine that counts what it is asked, and may be interrupted."""

    def __init__(self, engine):
        self._engine = engine
        self.steps = []
        self.interrupted_at = -1

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def forward(self, parts):
        self.steps.append([len(part.ids) for part in parts])
        if len(self.steps) == self.interrupted_at:
            raise KeyboardInterrupt
        return self._engine.forward(parts)


def new_task(prompt: Sequence[int], n: int = 20, **options) -> Task:
    chosen = GenerateOptions(max_tokens=n, **{"seed": 3, "temperature": 0.7} | options)

    def begin(cache) -> Iterator:
        stream = IdStream(prompt, [], chosen, PhaseTimes())
        while (token_id := (yield from stream.next_id(cache))) is not None:
            yield token_id

    return Task(begin, min(len(prompt) + n, N_POSITIONS), prompt, chosen.deadline)


def ids_alone(engine, task: Task) -> list[int]:
    made: list[int] = []
    finish(drive(engine, task.begin(engine.new_cache(task.n_positions))), made.append)
    return made


def run(scheduler: Scheduler, tasks: Sequence[Task], arrivals: Sequence[int] = ()) -> list:
    """What each task made, and last how it ended; arrivals: before which steps they come."""
    made, texts, n_steps = [[] for _ in tasks], {}, 0
    waiting = sorted(range(len(tasks)), key=lambda i: arrivals[i] if arrivals else 0)
    while waiting or not scheduler.is_idle:
        while waiting and (not arrivals or arrivals[waiting[0]] <= n_steps or scheduler.is_idle):
            index = waiting.pop(0)
            texts[scheduler.add(tasks[index])] = index
        for text, item in scheduler.step():
            made[texts[text]].append(item)
        n_steps += 1
    return made


def random_tasks(choice: random.Random, n: int) -> list[Task]:
    beginnings = [IDS[: choice.randrange(1, 200)] for _ in range(3)]
    return [
        new_task(
            choice.choice(beginnings) + choice.choices(range(300), k=choice.randrange(1, 60)),
            choice.randrange(1, 40),
            sample=choice.randrange(4),
            draft=choice.choice([0, 3, 8, 64]),
            temperature=choice.choice([0, 0.7]),
        )
        for _ in range(n)
    ]


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


@pytest.mark.parametrize("at", [1, 3, 12])
def test_after_an_interruption_all_go_on_as_if_there_had_been_none(engine, at):
    watched = Watched(engine)
    watched.interrupted_at = at
    tasks = [new_task(IDS[: 30 + i]) for i in range(3)]
    scheduler, made = Scheduler(watched), {}
    for task in tasks:
        made[scheduler.add(task)] = []
    n_interruptions = 0
    while not scheduler.is_idle:
        try:
            for text, item in scheduler.step():
                made[text].append(item)
        except KeyboardInterrupt:
            n_interruptions += 1
    assert n_interruptions == 1
    assert [each[:-1] for each in made.values()] == [ids_alone(engine, task) for task in tasks]


# --- parts in chunks, beginnings ------------------------------------------------------------------


@pytest.mark.parametrize("n_wanted", [0, 1, 30, 99, None])
@pytest.mark.parametrize("wanted", ["logits", "hidden_states", "log_probabilities"])
def test_a_part_in_chunks_gives_what_it_gives_whole(engine, wanted, n_wanted):
    n = 100 if n_wanted is None else n_wanted
    targets = IDS[:n] if wanted == "log_probabilities" else ()

    def part():
        return Part(IDS[100:200], engine.new_cache(), n_wanted, wanted, targets)

    whole = run_part(engine, part())
    asked, is_done = AskedPart(part()), False
    for n_ids in (7, 64, 64):
        assert not is_done
        chunk = asked.chunk(n_ids)
        is_done = asked.take(len(chunk.ids), run_part(engine, chunk), 0.5)
    assert is_done
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


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture
def service(engine):
    with Service(Scheduler(engine, most_texts=4)) as service:
        yield service


def test_threads_get_their_texts(engine, service):
    tasks = random_tasks(random.Random(9), 8)
    expected, found = [ids_alone(engine, task) for task in tasks], [None] * len(tasks)

    def ask(index):
        found[index] = list(service.submit(tasks[index]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_coroutines_get_their_texts(engine, service):
    tasks = random_tasks(random.Random(8), 8)

    async def ask(task):
        return [item async for item in service.stream(task)]

    async def ask_all():
        return await asyncio.gather(*map(ask, tasks))

    assert asyncio.run(ask_all()) == [ids_alone(engine, task) for task in tasks]


def test_whoever_goes_away_frees_the_place(engine):
    with Service(Scheduler(engine, most_texts=1)) as service:
        endless = new_task(IDS[:10], 380, draft=0)
        closed, lost = service.submit(endless), service.submit(endless)
        next(closed)
        closed.close()
        assert list(closed) == []
        next(lost)
        del lost

        async def cancelled():
            async for _ in service.stream(endless):
                break

        asyncio.run(cancelled())
        task = new_task(IDS[:30])
        assert list(service.submit(task)) == ids_alone(engine, task)


def test_an_error_is_raised_where_the_text_is_taken(service):
    with pytest.raises(TimeUp):
        list(service.submit(new_task(IDS[:30], deadline=0.0)))


def test_a_service_that_is_closed_ends_its_texts(engine):
    service = Service(Scheduler(engine))
    submission = service.submit(new_task(IDS[:10], 380, draft=0))
    next(submission)
    service.close()
    service.close()
    with pytest.raises(ValueError, match="closed"):
        list(submission)
    with pytest.raises(ValueError, match="closed"):
        service.submit(new_task(IDS[:10]))


def test_an_engine_that_breaks_ends_all(engine):
    watched = Watched(engine)
    watched.forward = lambda parts: 1 / 0
    with Service(Scheduler(watched)) as service:
        submissions = [service.submit(new_task(IDS[:10])) for _ in range(2)]
        for submission in submissions:
            with pytest.raises((ZeroDivisionError, ValueError)):
                list(submission)
