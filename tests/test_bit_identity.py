"""Results are the same bits however ids are grouped into calls and however many threads run."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from golden import sharpened
from oracle import log_probabilities

from codegen_cli.contract.engine import Engine, Part
from codegen_cli.decoding.id_stream import IdStream
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.phase_times import PhaseTimes
from codegen_cli.session.driver import drive, finish
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of, run_part
from quantize.quantize_model import quantize

pytestmark = pytest.mark.usefixtures("compiled_kernels")

# Every dimension leaves a band or a group unfilled: head_dim 24, 96 + 104 inner columns, 301 rows.
CONFIG = small_config(
    n_layer=2, n_head=4, n_embd=96, rotary_dim=10, n_inner=200, vocab_size=301, n_positions=310
)
FORMATS = ("f16", "int8", "int4")
THREADS = (1, 2, 3, 7)
PROMPTS = (1, 15, 16, 17, 63, 64, 65, 300)
CHUNKS = (7, 50, 129)
IDS = np.random.RandomState(7).randint(CONFIG["vocab_size"], size=max(PROMPTS))


@pytest.fixture(scope="module", params=FORMATS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_checkpoint(directory, CONFIG, sharpened(random_tensors(CONFIG, seed=1)))
    quantize(directory, directory / "model.packed", request.param)
    return directory / "model.packed"


@pytest.fixture(scope="module", params=THREADS)
def model(request: pytest.FixtureRequest, packed: Path) -> Iterator[Engine]:
    model = open_engine(packed, n_threads=request.param)
    yield model
    model.close()


@pytest.fixture(scope="module")
def expected(packed: Path) -> np.ndarray:
    """Logits of all ids fed at once to one thread; a prompt's are the first rows."""
    model = open_engine(packed, n_threads=1)
    logits = logits_of(model, IDS, model.new_cache())
    model.close()
    return logits


def in_chunks(model: Engine, ids: np.ndarray, chunk: int) -> np.ndarray:
    """Logits of every id, fed `chunk` at a time."""
    cache = model.new_cache()
    parts = [logits_of(model, ids[i : i + chunk], cache) for i in range(0, len(ids), chunk)]
    return np.concatenate(parts)


def test_expected_logits_are_numbers_that_differ(expected: np.ndarray) -> None:
    assert np.isfinite(expected).all()
    assert len(np.unique(expected.argmax(axis=1))) > 50


@pytest.mark.parametrize("n_tokens", PROMPTS)
def test_a_prompt_at_once_equals_the_start_of_a_longer_one(
    model: Engine, expected: np.ndarray, n_tokens: int
) -> None:
    logits = logits_of(model, IDS[:n_tokens], model.new_cache())
    assert np.array_equal(logits, expected[:n_tokens])


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("n_tokens", PROMPTS)
def test_chunks_equal_one_prefill(
    model: Engine, expected: np.ndarray, n_tokens: int, chunk: int
) -> None:
    assert np.array_equal(in_chunks(model, IDS[:n_tokens], chunk), expected[:n_tokens])


def test_step_by_step_equals_one_prefill(model: Engine, expected: np.ndarray) -> None:
    """A shorter prompt, step by step, is the start of this one."""
    assert np.array_equal(in_chunks(model, IDS, 1), expected)


@pytest.mark.parametrize("n_logits", [0, 1, 5, 70])
def test_fewer_logits_are_the_last_ones(model: Engine, expected: np.ndarray, n_logits: int) -> None:
    logits = logits_of(model, IDS[:77], model.new_cache(), n_logits)
    assert np.array_equal(logits, expected[77 - n_logits : 77])


def likelihoods(model: Engine, chunk: int) -> np.ndarray:
    """All that is known of what follows each id, fed `chunk` at a time: [3, n_tokens]."""
    cache, found = model.new_cache(), []
    for i in range(0, len(IDS), chunk):
        ids, targets = IDS[i : i + chunk], np.roll(IDS, -1)[i : i + chunk]
        part = Part(ids, cache, None, "log_probabilities", targets, (5, 300))
        found.append(np.array(run_part(model, part)))
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("chunk", [1, *CHUNKS])
def test_log_probabilities_are_the_same_bits(
    model: Engine, packed: Path, expected: np.ndarray, chunk: int
) -> None:
    alone = open_engine(packed, n_threads=1)
    at_once = likelihoods(alone, len(IDS))
    alone.close()
    assert np.array_equal(likelihoods(model, chunk), at_once)
    by_definition = log_probabilities(expected, np.roll(IDS, -1), (5, 300))
    np.testing.assert_allclose(at_once, by_definition, rtol=0, atol=2e-7)


def test_ids_after_a_rewind_do_not_see_the_forgotten_ones(
    model: Engine, expected: np.ndarray
) -> None:
    cache = model.new_cache()
    logits_of(model, np.roll(IDS, 1)[:150], cache)
    cache.n_past = 0
    logits_of(model, IDS[:100], cache)
    cache.n_past = 37
    assert np.array_equal(logits_of(model, IDS[37:120], cache), expected[37:120])


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_a_completion_has_the_same_ids_with_and_without_drafts(
    model: Engine, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a clock nothing is learned about costs: how much is drafted depends on the ids alone.
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)

    def complete(draft: int) -> tuple[list[int], int]:
        options = GenerateOptions(max_tokens=200, temperature=temperature, seed=3, draft=draft)
        stream = IdStream(IDS[:20].tolist(), [], options, PhaseTimes())
        cache, ids = model.new_cache(), []
        while (token_id := finish(drive(model, stream.next_id(cache)))) is not None:
            ids.append(token_id)
        return ids, stream.n_drafted

    ids, _ = complete(0)
    assert len(ids) == 200
    for draft in (1, 8, 64):
        drafted_ids, n_drafted = complete(draft)
        assert drafted_ids == ids
        assert n_drafted > 3
