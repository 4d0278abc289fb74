"""Many texts in steps that they share: each is scored and embedded as if it were alone."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

import codegen_cli
from codegen_cli.engine_cpu.numba_engine import NumbaEngine
from codegen_cli.reports.reading import read_in_turn
from quantize.quantize_model import quantize

N_POSITIONS = 96
SHORT = [f"def f{i}(x): return {'x + ' * (i % 5)}{i}" for i in range(40)]
LONG = "".join(f"value_{i} = {i} * {i}\n" for i in range(60))  # several contexts
MIXED = ["", *SHORT[:20], LONG, "x", LONG * 5, *SHORT[20:], LONG[:200], ""]


@pytest.fixture(scope="module")
def model(tmp_path_factory, compiled_kernels):
    directory = tmp_path_factory.mktemp("model")
    config = small_config(vocab_size=51200, n_positions=N_POSITIONS, n_ctx=N_POSITIONS)
    write_checkpoint(directory, config, random_tensors(config, seed=1))
    quantize(directory, directory / "packed", "int8")
    with codegen_cli.load(directory / "packed", threads=2) as model:
        yield model


@pytest.fixture
def steps(monkeypatch):
    """Of each step: the ids of its parts."""
    found, forward = [], NumbaEngine.forward

    def watched(self, parts):
        found.append([len(part.ids) for part in parts])
        return forward(self, parts)

    monkeypatch.setattr(NumbaEngine, "forward", watched)
    return found


def same(a, b):
    """Whether two scores are the same bits; NaN is where NaN is."""
    return all(
        np.array_equal(x, y, equal_nan=isinstance(x, np.ndarray) and x.dtype.kind == "f")
        for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
    )


def test_scores_are_those_of_each_text_alone(model, steps):
    alone = [model.score(text) for text in MIXED]
    n_alone = len(steps)
    steps.clear()
    together = list(model.score_many(iter(MIXED)))
    assert all(map(same, together, alone))
    assert len(together) == len(MIXED)
    assert len(steps) <= n_alone - len(SHORT) // 2


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_vectors_are_those_of_each_text_alone(model, pool, steps):
    texts = [text for text in MIXED if text]
    alone = [model.embed(text, pool) for text in texts]
    n_alone = len(steps)
    steps.clear()
    together = list(model.embed_many(texts, pool))
    assert np.array_equal(together, alone)
    assert len(steps) <= n_alone - len(SHORT) // 2


def test_texts_are_taken_as_they_are_needed(model):
    taken = []

    def texts() -> Iterator[str]:
        for text in ["", *SHORT, *SHORT]:
            taken.append(text)
            yield text

    scores = model.score_many(texts())
    assert taken == []
    next(scores)
    assert len(taken) < len(SHORT)
    list(model.score_many([""] * 1000))  # nothing to read: never enough to fill a step


def test_an_error_is_raised_when_its_turn_has_come(model):
    vectors = model.embed_many(["a", "b", "", "c"])
    assert np.array_equal(next(vectors), model.embed("a"))
    assert np.array_equal(next(vectors), model.embed("b"))
    with pytest.raises(codegen_cli.UserError, match="the text is empty"):
        next(vectors)
    scores = model.score_many(["a", 1])
    next(scores)
    with pytest.raises(TypeError, match="the text is 1, need text"):
        next(scores)


def test_progress_is_that_of_the_text_whose_result_comes_next(model):
    told, texts = [], [LONG, *SHORT[:3], LONG]
    n_ids = [len(model.tokenizer.encode(text)) for text in texts]
    scores = model.score_many(texts, on_progress=lambda *progress: told.append(progress))
    for n in n_ids:
        told.clear()
        next(scores)
        assert {total for _, total in told} == {n}
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (n, n)


def test_results_are_told_with_their_names_and_what_fails_in_its_turn(model):
    def texts() -> Iterator[tuple[str, str]]:
        yield from zip("abc", SHORT, strict=False)
        raise codegen_cli.UserError("no more of them", "")

    results = read_in_turn(texts(), lambda each, told: model.score_many(each, on_progress=told))
    for expected, text in zip("abc", SHORT, strict=False):
        name, score = next(results)
        assert name == expected
        assert same(score, model.score(text))
    with pytest.raises(codegen_cli.UserError, match="no more of them"):
        next(results)
