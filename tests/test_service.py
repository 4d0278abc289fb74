"""A service: texts from threads and coroutines, each what it would be alone, whoever goes away."""

import asyncio
import gc
import random
import sys
import threading

import pytest
from id_tasks import IDS, Watched, ids_alone, new_task, open_small, random_tasks

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.decoding.scheduler import Scheduler
from codegen_cli.session.service import Service

pytestmark = pytest.mark.usefixtures("compiled_kernels")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = open_small(tmp_path_factory.mktemp("model"))
    yield engine
    engine.close()


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


def test_an_engine_that_breaks_ends_what_it_had_and_no_more(engine):
    watched = Watched(engine)
    watched.forward = lambda parts: 1 / 0
    with Service(Scheduler(watched)) as service:
        for submission in [service.submit(new_task(IDS[:10])) for _ in range(2)]:
            with pytest.raises(ZeroDivisionError):
                list(submission)
        watched.forward = engine.forward
        task = new_task(IDS[:10])
        assert list(service.submit(task)) == ids_alone(engine, task)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"n_positions": 10**6}, ValueError),
        ({"ids": 7}, TypeError),
        ({"deadline": "soon"}, TypeError),
        ({"begin": lambda cache: 1 / 0}, ZeroDivisionError),
    ],
)
def test_a_task_that_is_none_fails_alone(engine, service, changes, error):
    task = new_task(IDS[:50], 100)
    good, bad = service.submit(task), service.submit(task._replace(**changes))
    with pytest.raises(error):
        list(bad)
    assert list(good) == ids_alone(engine, task)
    assert list(service.submit(task)) == ids_alone(engine, task)


def test_closing_wakes_whoever_waits(engine):
    """A step holds until then: nothing else would wake them."""
    watched, may_go_on, ends = Watched(engine), threading.Event(), []

    def held(parts):
        may_go_on.wait()
        return engine.forward(parts)

    watched.forward = held
    with Service(Scheduler(watched)) as service:
        submission = service.submit(new_task(IDS[:50]))
        threads = [threading.Thread(target=lambda: ends.append(list(submission))) for _ in range(3)]
        for thread in threads:
            thread.start()
        submission.close()
        for thread in threads:
            thread.join(30)
        may_go_on.set()
    assert ends == [[], [], []]


def test_all_who_wait_for_one_text_learn_of_its_error(engine):
    watched, errors = Watched(engine), []

    def wait():
        with pytest.raises(ZeroDivisionError) as caught:
            list(submission)
        errors.append(caught.value)

    watched.forward = lambda parts: 1 / 0
    with Service(Scheduler(watched)) as service:
        submission = service.submit(new_task(IDS[:50]))
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(errors) == 3


def test_texts_that_wait_their_turn_end_with_the_service(engine):
    service = Service(Scheduler(engine, most_texts=1))
    submissions = [service.submit(new_task(IDS[:10], 380, draft=0)) for _ in range(3)]
    next(submissions[0])
    service.close()
    errors = []
    for submission in submissions:
        with pytest.raises(ValueError, match="closed") as caught:
            list(submission)
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3  # each may be raised in another thread


def test_a_fault_of_the_scheduler_is_told_to_all(engine):
    scheduler = Scheduler(engine)
    scheduler.step = lambda: sys.exit("a fault")
    service = Service(scheduler)
    submission = service.submit(new_task(IDS[:10]))
    with pytest.raises(ValueError, match="closed") as caught:
        list(submission)
    assert isinstance(caught.value.__cause__, SystemExit)
    with pytest.raises(ValueError, match="closed"):
        service.submit(new_task(IDS[:10]))
    service.close()


def test_a_loop_that_is_closed_before_the_answer_frees_the_place(engine, service):
    async def ask():
        await anext(texts)

    texts, task = service.stream(new_task(IDS[:10], 380, draft=0)), new_task(IDS[:30])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask())
    loop.close()
    assert list(service.submit(task)) == ids_alone(engine, task)


def test_a_task_that_is_cancelled_frees_the_place(engine):
    watched, task = Watched(engine), new_task(IDS[:30])

    async def ask(n_items):
        async for _ in service.stream(new_task(IDS[:10], 380, draft=0)):
            n_items.append(1)

    async def cancel():
        n_items = []
        asking = asyncio.create_task(ask(n_items))
        while not n_items:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return [item async for item in service.stream(task)]

    with Service(Scheduler(watched, most_texts=1)) as service:
        assert asyncio.run(cancel()) == ids_alone(engine, task)
    assert len(watched.steps) < 300


def test_a_service_that_is_lost_ends_its_thread_and_not_before_its_texts(engine):
    task, before = new_task(IDS[:30]), set(threading.enumerate())
    submission = Service(Scheduler(engine)).submit(task)
    (thread,) = set(threading.enumerate()) - before
    assert list(submission) == ids_alone(engine, task)
    del submission
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()
