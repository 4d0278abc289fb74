"""Texts in one step of the CPU engine get the bits that each gets alone; caches share blocks."""

import random
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from golden import sharpened

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.engine import Cancelled, LogProbabilities, Part
from codegen_cli.engine_cpu import kv_cache
from codegen_cli.kernels.step_table import BLOCK
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of, run_part
from quantize.files.errors import UserError
from quantize.quantize_model import quantize

pytestmark = pytest.mark.usefixtures("compiled_kernels")

# Every dimension leaves a band or a group unfilled, see test_bit_identity.py.
CONFIG = small_config(
    n_layer=2, n_head=4, n_embd=96, rotary_dim=10, n_inner=200, vocab_size=301, n_positions=310
)
IDS = np.random.RandomState(7).randint(CONFIG["vocab_size"], size=310)


@pytest.fixture(scope="module", params=["int8", "int4", "f16"])
def packed(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_checkpoint(directory, CONFIG, sharpened(random_tensors(CONFIG, seed=1)))
    quantize(directory, directory / "model.packed", request.param)
    return directory / "model.packed"


@pytest.fixture(scope="module", params=[1, 3])
def engine(request, packed):
    engine = open_engine(packed, n_threads=request.param)
    yield engine
    engine.close()


def random_part(engine, choice: random.Random) -> Part:
    """A prompt, a single id or a draft, after whatever else, with any wish."""
    n_past = choice.choice([0, 0, 1, 63, 127, 128, choice.randrange(200)])
    n = choice.choice([1, 1, 2, 9, choice.randrange(1, 110)])
    shift = choice.randrange(300)
    ids = np.roll(IDS, shift)[: n_past + n]
    cache = engine.new_cache()
    if n_past:
        logits_of(engine, ids[:n_past], cache, 0)
    wanted = choice.choice(["logits", "logits", "hidden_states", "log_probabilities"])
    n_wanted = choice.choice([0, 1, n])
    targets = IDS[:n_wanted] if wanted == "log_probabilities" else ()
    never = choice.choice([(), (5, 300)])
    return Part(ids[n_past:], cache, n_wanted, wanted, targets, never)


def same(a, b):
    if isinstance(a, LogProbabilities):
        return all(map(np.array_equal, a, b))
    return a.shape == b.shape and np.array_equal(a, b)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_rides_along_a_text_gets_the_same_bits(engine, seed):
    choice = random.Random(seed)
    parts = [random_part(engine, choice) for _ in range(9)]
    ends = [part.cache.n_past + len(part.ids) for part in parts]
    alone = [
        run_part(engine, part._replace(cache=engine.copy_cache(part.cache, part.cache.n_past)))
        for part in parts
    ]
    assert all(map(same, engine.forward(parts), alone))
    assert [part.cache.n_past for part in parts] == ends
    # What the caches have now is as good.
    following = [part for part in parts if part.cache.n_past < 300]
    copies = [engine.copy_cache(part.cache, part.cache.n_past) for part in following]
    next_ids = engine.forward([Part([7], part.cache) for part in following])
    assert all(
        np.array_equal(found, logits_of(engine, [7], copy))
        for found, copy in zip(next_ids, copies, strict=True)
    )


@pytest.mark.parametrize("n_past", [0, 1, 127, 128, 129, 255, 256, 257])
def test_caches_that_share_a_beginning_do_not_see_each_other(engine, n_past):
    whole = engine.new_cache()
    expected = logits_of(engine, IDS, whole)
    copies = [engine.copy_cache(whole, n_past) for _ in range(2)]
    other = np.roll(IDS, 3)
    logits_of(engine, other[:20], copies[0], 0)
    whole.n_past = min(n_past, 100)  # it writes where the others still read
    logits_of(engine, other[: 310 - whole.n_past], whole, 0)
    found = logits_of(engine, IDS[n_past:], copies[1])
    assert np.array_equal(found, expected[n_past:])
    copies[1].n_past = 50
    assert np.array_equal(logits_of(engine, IDS[50:80], copies[1]), expected[50:80])


def test_whole_blocks_are_shared_and_freed_with_the_last_cache(engine):
    cache = engine.new_cache()
    logits_of(engine, IDS, cache, 0)
    copy = engine.copy_cache(cache, BLOCK + 40)
    assert copy.blocks[0] is cache.blocks[0]
    assert not np.shares_memory(copy.blocks[1], cache.blocks[1])
    shared, own = weakref.ref(cache.blocks[0]), weakref.ref(cache.blocks[1])
    del cache
    assert own() is None
    assert shared() is not None
    del copy
    assert shared() is None


def test_a_block_is_there_once_its_first_position_is(engine):
    cache = engine.new_cache()
    counts = []
    for n in (0, 1, 127, 1, 128):  # up to 0, 1, 128, 129, 257
        if n:
            logits_of(engine, IDS[:n], cache, 0)
        counts.append(len(cache.blocks))
    assert counts == [0, 1, 1, 2, 3]


def test_what_ends_one_text_leaves_the_others(engine):
    flag = threading.Event()
    flag.set()
    caches = [engine.new_cache() for _ in range(4)]
    expected = logits_of(engine, IDS[:90], engine.new_cache(), 1)
    parts = [
        Part(IDS[:90], caches[0], 1, deadline=0.0),
        Part(IDS[:90], caches[1], 1),
        Part(IDS[:90], caches[2], 1, cancel=flag),
        Part(IDS[:90], caches[3], 1, deadline=time.monotonic() + 1000),
    ]
    late, first, cancelled, second = engine.forward(parts)
    assert isinstance(late, TimeUp)
    assert isinstance(cancelled, Cancelled)
    assert np.array_equal(first, expected)
    assert np.array_equal(second, expected)
    assert [cache.n_past for cache in caches] == [0, 90, 0, 90]


def test_a_text_without_memory_ends_alone(engine, monkeypatch):
    full = engine.new_cache()
    logits_of(engine, IDS[:20], full, 0)
    expected = logits_of(engine, [3], engine.copy_cache(full, 20))
    monkeypatch.setattr(kv_cache, "paged_memory", lambda *_: (_ for _ in ()).throw(MemoryError))
    none, found = engine.forward([Part([3], engine.new_cache()), Part([3], full)])
    assert isinstance(none, UserError)
    assert "no memory left for the keys and values of 1 tokens" in none.message
    assert np.array_equal(found, expected)


def test_every_text_is_told_that_the_engine_is_closed(packed):
    engine = open_engine(packed, n_threads=1)
    engine.close()
    outcomes = engine.forward([Part([1], engine.new_cache()) for _ in range(3)])
    assert [str(each) for each in outcomes] == ["the model is closed"] * 3
