"""Texts that share steps of the PyTorch engine: each is what it would be alone.

PyTorch's sums hang on how many tokens a step takes, so logits differ in the last bits. The texts of
a model as small as this one hang on that only where two ids are as likely to six digits.
"""

import asyncio

import pytest
from id_tasks import IDS, Watched, ids_alone, new_task, open_small, run

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.decoding.scheduler import Scheduler
from codegen_cli.session.service import Service

pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = open_small(tmp_path_factory.mktemp("model"), "torch:cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tasks():
    """Two samples each of prompts with a common beginning, a text beside them, and one too late."""
    prompts = [[*IDS[:150], *IDS[200 : 220 + 10 * i]] for i in range(3)]
    sampled = [
        new_task(prompt, 12, sample=i, draft=draft)
        for prompt, draft in zip(prompts, (0, 3, 8), strict=True)
        for i in range(2)
    ]
    return [*sampled, new_task(IDS[300:310], 30, temperature=0), new_task(IDS[:60], deadline=0.0)]


def test_texts_and_samples_are_what_they_would_be_alone(engine, tasks):
    watched = Watched(engine)
    *found, late = run(Scheduler(watched), tasks)
    assert [each[:-1] for each in found] == [ids_alone(engine, task) for task in tasks[:-1]]
    assert isinstance(late[-1].error, TimeUp)
    assert max(map(len, watched.steps)) == 7  # all at once
    assert sum(map(sum, watched.steps)) < 600 < sum(len(task.ids) for task in tasks)


def test_a_service_runs_over_it(engine, tasks):
    async def ask_all(service):
        return await asyncio.gather(*(ask(service, task) for task in tasks[:7]))

    async def ask(service, task):
        return [item async for item in service.stream(task)]

    with Service(Scheduler(engine, most_texts=3)) as service:
        assert asyncio.run(ask_all(service)) == [ids_alone(engine, task) for task in tasks[:7]]
