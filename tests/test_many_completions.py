"""Completions that share steps, in Python: what may be given, and what a service makes of it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import codegen_cli
from codegen_cli import GenerateOptions, Piece, Prompt, Request, Summary

PROMPTS = ["def add(a, b):", "def area(radius):", "class Stack:\n    def", "import os\nimport "]
OPTIONS = {"seed": 1, "temperature": 0.8, "max_tokens": 16, "until": "none"}


@pytest.fixture(scope="module")
def model(compiled_kernels):
    with codegen_cli.load("nano", threads=2) as model:
        yield model


@pytest.fixture(scope="module")
def alone(model):
    return [model.complete(prompt, **OPTIONS) for prompt in PROMPTS]


def request(key, prompt, **options):
    chosen = GenerateOptions(**OPTIONS | options)
    return Request(key, Prompt(prompt, chosen.max_tokens), chosen)


def text_of(items):
    return "".join(item.text for item in items if isinstance(item, Piece))


def test_prompts_may_come_from_any_iterable(model, alone):
    assert model.complete_many(PROMPTS, **OPTIONS) == alone
    assert model.complete_many((prompt for prompt in PROMPTS), **OPTIONS) == alone
    assert model.complete_many(dict.fromkeys(PROMPTS), **OPTIONS) == alone
    assert model.complete_many(iter([]), **OPTIONS) == []
    many = model.complete_many(iter(PROMPTS[:2]), samples=2, **OPTIONS)
    assert [each[0] for each in many] == alone[:2]
    assert [each[1] for each in many] == [
        model.complete(prompt, sample=1, **OPTIONS) for prompt in PROMPTS[:2]
    ]


@pytest.mark.parametrize("single", ["def f(x):", b"def f(x):", Prompt("x", 1), request(0, "x")])
@pytest.mark.parametrize("method", ["complete_many", "generate_many", "score_many", "embed_many"])
def test_a_single_one_is_not_taken_for_many(model, method, single):
    with pytest.raises(TypeError, match=r"(prompts|requests|texts) is .*, need a list"):
        getattr(model, method)(single)


def test_many_requests_end_each_by_itself(model, alone):
    requests = (request(i, prompt) for i, prompt in enumerate([*PROMPTS, ""]))
    made = {}
    for each, item in model.generate_many(requests):
        made.setdefault(each.key, []).append(item)
    assert [text_of(made[i]) for i in range(4)] == alone
    assert all(isinstance(made[i][-1], Summary) for i in range(4))
    assert [item.message for item in made[4]] == ["the prompt is empty"]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (None, "the request is None, need a codegen_cli.Request"),
        (
            Request(0, "def f", GenerateOptions()),
            "the prompt is 'def f', need a codegen_cli.Prompt",
        ),
        (Request(0, Prompt(b"x", 1), GenerateOptions()), "the prompt is b'x', need text"),
        (Request(0, Prompt("x", 1), {}), "the options are {}, need codegen_cli.GenerateOptions"),
    ],
)
def test_what_is_no_request_is_named(model, bad, named):
    with pytest.raises(TypeError, match=named):
        list(model.generate_many(iter([bad])))
    with pytest.raises(TypeError, match=named):
        model.task(bad)


def test_a_service_completes_for_threads_and_coroutines(model, alone):
    async def ask(service, prompt):
        return text_of([item async for item in service.stream(model.task(request(0, prompt)))])

    async def ask_all(service):
        return await asyncio.gather(*(ask(service, prompt) for prompt in PROMPTS))

    with model.serve() as service, ThreadPoolExecutor(4) as pool:
        tasks = [model.task(request(0, prompt)) for prompt in PROMPTS]
        assert [text_of(each) for each in pool.map(list, map(service.submit, tasks))] == alone
        assert [text_of(service.submit(task)) for task in tasks] == alone  # each once more
        assert asyncio.run(ask_all(service)) == alone
    assert isinstance(service, codegen_cli.Service)


def test_a_model_that_is_closed_ends_what_a_service_runs_of_it():
    with codegen_cli.load("nano", threads=1) as model:
        service = model.serve()
        submission = service.submit(model.task(request(0, "x", max_tokens=1000)))
        next(submission)
    with service, pytest.raises(ValueError, match="the model is closed"):
        list(submission)
