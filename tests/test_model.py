"""Model and Team: what forward refuses, and that a step cut short leaves everything usable."""

import signal
import sys
import time

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.deadline import TimeUp
from codegen_cli.model import Model, load_model
from codegen_cli.threads import run_interruptibly
from quantize.quantize_model import quantize


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    config = small_config(n_positions=128)
    write_checkpoint(directory, config, random_tensors(config, seed=1))
    quantize(directory, directory / "packed", "int8")
    model = load_model(directory / "packed", n_threads=2)
    yield model
    model.close()


def ids_of(model: Model, n: int):
    return [int(i) for i in np.random.default_rng(0).integers(0, model.config.vocab_size, n)]


@pytest.mark.parametrize(
    ("ids", "n_logits", "message"),
    [
        ([], None, "non-empty"),
        ([-1], None, "must lie in"),
        ([10**9], None, "must lie in"),
        ([1, 2], 3, "n_logits is 3"),
        ([1] * 129, 1, "exceed n_positions 128"),
    ],
)
def test_forward_refuses_what_would_leave_its_memory(model, ids, n_logits, message):
    cache = model.new_cache()
    with pytest.raises(ValueError, match=message):
        model.forward(ids, cache, n_logits)
    assert cache.n_past == 0


def test_a_cache_of_another_model_is_refused(model):
    cache = model.new_cache()
    cache.config = None
    with pytest.raises(ValueError, match="another model"):
        model.forward([1], cache)


def test_the_last_logits_are_those_of_all(model):
    ids = ids_of(model, 100)
    every = model.forward(ids, model.new_cache())
    assert every.shape == (100, model.config.vocab_size)
    for n_logits in (0, 1, 36, 37, 99):
        last = model.forward(ids, model.new_cache(), n_logits)
        assert np.array_equal(last, every[100 - n_logits :])


def test_the_context_can_be_filled_to_its_last_position(model):
    cache = model.new_cache()
    model.forward(ids_of(model, 127), cache, 1)
    model.forward([1], cache)
    assert cache.n_past == 128
    with pytest.raises(ValueError, match="exceed"):
        model.forward([1], cache)


def test_time_up_leaves_the_cache_as_it_was(model):
    ids = ids_of(model, 60)
    cache = model.new_cache()
    model.forward(ids[:20], cache, 1)
    model.deadline = time.monotonic() - 1
    try:
        with pytest.raises(TimeUp):
            model.forward(ids[20:], cache)
    finally:
        model.deadline = None
    assert cache.n_past == 20
    expected = model.forward(ids, model.new_cache())[20:]
    assert np.array_equal(model.forward(ids[20:], cache), expected)


def forward_forever(model: Model, ids):
    while True:
        model.forward(ids, model.new_cache())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_a_step_leaves_the_model_usable(model):
    ids = ids_of(model, 128)
    expected = model.forward(ids, model.new_cache())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            forward_forever(model, ids)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(model.forward(ids, model.new_cache()), expected)


def test_work_that_fails_raises_where_it_is_waited_for():
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 // 0)


def test_work_is_left_when_time_is_up():
    with pytest.raises(TimeUp):
        run_interruptibly(lambda: time.sleep(60), time.monotonic() + 0.05)
