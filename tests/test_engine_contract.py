"""What every engine promises, held on each of them; and what the driver makes of a stream."""

import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from oracle import log_probabilities

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.engine import Cancelled, LogProbabilities, Part
from codegen_cli.machine import cpu
from codegen_cli.session.driver import Answer, drive, finish
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of, run_part, states_of
from quantize.files.errors import UserError
from quantize.quantize_model import quantize

IDS = np.random.default_rng(5).integers(0, 100, 120).tolist()


def write_model(directory: Path, seed: int) -> Path:
    config = small_config(n_positions=128, vocab_size=100)
    checkpoint = write_checkpoint(directory / str(seed), config, random_tensors(config, seed))
    quantize(checkpoint, directory / f"{seed}.packed", "int8")
    return directory / f"{seed}.packed"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("packed"), seed=3)


NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")


@pytest.fixture(scope="module", params=["cpu", pytest.param("torch:cpu", marks=NEEDS_TORCH)])
def engine(request, path, compiled_kernels):
    engine = open_engine(path, request.param, n_threads=2)
    yield engine
    engine.close()


def agree(engine, found, expected):
    """Whether results are the same: to the bit in Numba's, as rounding allows in PyTorch's."""
    if engine.identity.engine == "numba":
        return np.array_equal(found, expected)
    return found.shape == expected.shape and np.abs(found - expected).max() < 1e-4


@pytest.fixture(scope="module")
def expected(engine):
    """Logits of all ids at once."""
    return logits_of(engine, IDS, engine.new_cache())


def test_parts_get_what_each_of_them_wanted(engine, expected):
    caches = [engine.new_cache() for _ in range(3)]
    logits, states, likelihoods = engine.forward(
        [
            Part(IDS, caches[0], 5),
            Part(IDS[:70], caches[1], 70, "hidden_states"),
            Part(IDS[:-1], caches[2], 100, "log_probabilities", IDS[-100:]),
        ]
    )
    assert agree(engine, logits, expected[-5:])
    assert agree(engine, states, states_of(engine, IDS[:70], engine.new_cache()))
    assert isinstance(likelihoods, LogProbabilities)
    own, likeliest, of_likeliest = log_probabilities(expected[-101:-1], IDS[-100:], ())
    bound = 2e-7 if engine.identity.engine == "numba" else 1e-5  # PyTorch's logits are others
    np.testing.assert_allclose(likelihoods.of_targets, own, rtol=0, atol=bound)
    assert np.array_equal(likelihoods.likeliest_ids, likeliest)
    np.testing.assert_allclose(likelihoods.of_likeliest, of_likeliest, rtol=0, atol=bound)
    assert [cache.n_past for cache in caches] == [120, 70, 119]


def set_flag() -> threading.Event:
    flag = threading.Event()
    flag.set()
    return flag


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"deadline": 0.0}, TimeUp),
        ({"cancel": set_flag()}, Cancelled),
        ({"ids": [100]}, ValueError),
        ({"ids": []}, ValueError),
        ({"n_wanted": 31}, ValueError),
        ({"wanted": "log_probabilities", "targets": [1]}, ValueError),
        ({"wanted": "log_probabilities", "targets": [*IDS[:29], 100]}, ValueError),
        ({"wanted": "log_probabilities", "targets": [*IDS[:29], -1]}, ValueError),
    ],
)
def test_a_part_that_fails_leaves_its_cache_and_the_others_advance(
    engine, expected, changes, error
):
    good, bad = engine.new_cache(), engine.new_cache()
    run_part(engine, Part(IDS[:20], bad, 0))
    failing = Part(IDS[20:50], bad, 30)._replace(**changes)
    outcomes = engine.forward([failing, Part(IDS[:40], good, 1)])
    assert isinstance(outcomes[0], error)
    assert agree(engine, outcomes[1], expected[39:40])
    assert (bad.n_past, good.n_past) == (20, 40)
    assert agree(engine, logits_of(engine, IDS[20:50], bad), expected[20:50])


def test_a_flag_that_is_set_meanwhile_ends_the_part(engine):
    cache, flag = engine.new_cache(), threading.Event()
    timer = threading.Timer(0.2, flag.set)
    timer.start()

    def read_for_ever():
        while True:
            cache.n_past = 0
            run_part(engine, Part(IDS, cache, 0, cancel=flag))

    with pytest.raises(Cancelled):
        read_for_ever()
    assert cache.n_past == 0
    timer.join()


@pytest.mark.parametrize("n_past", [0, 1, 15, 16, 17, 64, 100])
def test_a_copied_beginning_goes_on_as_the_whole(engine, expected, n_past):
    whole = engine.new_cache()
    run_part(engine, Part(IDS, whole, 0))
    copy = engine.copy_cache(whole, n_past, n_past + 20)
    assert (copy.n_past, copy.n_positions) == (n_past, n_past + 20)
    end = n_past + 20
    assert agree(engine, logits_of(engine, IDS[n_past:end], copy), expected[n_past:end])
    assert whole.n_past == len(IDS)


def test_no_more_of_a_cache_is_copied_than_it_has_and_fits(engine):
    cache = engine.new_cache(32)
    run_part(engine, Part(IDS[:30], cache, 0))
    for n_past, n_positions in ((31, None), (-1, None), (20, 19)):
        with pytest.raises(ValueError, match="ids of a cache"):
            engine.copy_cache(cache, n_past, n_positions)


def test_caches_of_equal_files_are_interchangeable_and_no_others(engine, path, tmp_path):
    (tmp_path / "same").write_bytes(path.read_bytes())
    device = "cpu" if engine.identity.engine == "numba" else "torch:cpu"
    same = open_engine(tmp_path / "same", device, n_threads=1)
    other = open_engine(write_model(tmp_path, seed=4), device, n_threads=1)
    cache = engine.new_cache()
    run_part(engine, Part(IDS[:50], cache, 0))
    assert same.identity == engine.identity != other.identity
    logits_of(same, IDS[50:60], cache)
    with pytest.raises(ValueError, match="another model"):
        logits_of(other, IDS[60:61], cache)
    with pytest.raises(ValueError, match="another model"):
        other.copy_cache(cache, 10)
    same.close()
    other.close()


def test_what_an_engine_tells_of_itself(engine):
    assert (engine.format, engine.n_positions) == ("int8", 128)
    assert 8.5 <= engine.bits_per_weight < 9.5  # scales included, and padding
    cache = engine.new_cache()
    if engine.identity.engine == "numba":
        cache.make_room(0, 128)
        assert engine.cache_bytes() == sum(block.nbytes for block in cache.blocks)
        assert engine.cache_bytes(1) == engine.cache_bytes() == 128 * engine.position_bytes
    else:
        tensors = (*cache.slot.keys, *cache.slot.values)
        assert engine.cache_bytes() == sum(tensor.nbytes for tensor in tensors)
        assert engine.cache_bytes() == cache.slot.capacity * engine.position_bytes
    assert engine.device in (
        f"2 threads, {cpu.kernel_path()} kernels, {cpu.name()}",
        "CPU by PyTorch, float32",
    )
    assert engine.read_speed() is None  # it computes in the host's memory


def test_an_unknown_device_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        open_engine(tmp_path / "no such file", "tpu")


# --- streams and their driver ---------------------------------------------------------------------


def counting(cache):
    """Makes how many logits each answer has; ends with what it caught."""
    for n_ids in (3, 2):
        answer = yield Part(IDS[:n_ids], cache)
        assert isinstance(answer, Answer)
        assert answer.seconds > 0
        sent = yield len(answer.result)
        assert sent is None
    try:
        yield Part([100], cache)
    except ValueError as error:
        return error
    raise AssertionError


def test_a_stream_gets_its_answers_and_its_errors(engine):
    stream = drive(engine, counting(engine.new_cache()))
    assert [next(stream), next(stream)] == [3, 2]
    assert isinstance(finish(stream), ValueError)


def test_an_error_that_a_stream_does_not_handle_is_raised(engine):
    def hurried():
        yield Part(IDS, engine.new_cache(), deadline=time.monotonic() - 1)

    with pytest.raises(TimeUp):
        finish(drive(engine, hurried()))


def test_nothing_may_be_lost_of_what_a_stream_makes(engine):
    with pytest.raises(ValueError, match="the stream makes 3"):
        finish(drive(engine, counting(engine.new_cache())))
