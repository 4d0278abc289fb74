"""Model and Team: what forward refuses, and that a step cut short leaves everything usable."""

import ctypes
import itertools
import signal
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.contract.deadline import TimeUp, check_deadline
from codegen_cli.contract.engine import Engine, Part
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.engine_cpu.team_size import CoreTime, TeamSize
from codegen_cli.engine_cpu.threads import Team
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of, run_part
from quantize.quantize_model import quantize

pytestmark = pytest.mark.usefixtures("compiled_kernels")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    config = small_config(n_positions=128)
    write_checkpoint(directory, config, random_tensors(config, seed=1))
    quantize(directory, directory / "packed", "int8")
    model = open_engine(directory / "packed", n_threads=2)
    yield model
    model.close()


def ids_of(model: Engine, n: int):
    return [int(i) for i in np.random.default_rng(0).integers(0, model.config.vocab_size, n)]


@pytest.mark.parametrize(
    ("ids", "n_logits", "message"),
    [
        ([], None, "non-empty"),
        ([-1], None, "must lie in"),
        ([10**9], None, "must lie in"),
        ([1, 2], 3, "3 results are wanted, of 2 ids"),
        ([1.5], None, "must be whole numbers"),
        ([[1]], None, "non-empty sequence, not of shape"),
        ([1] * 129, 1, "exceed n_positions 128"),
    ],
)
def test_forward_refuses_what_would_leave_its_memory(model, ids, n_logits, message):
    cache = model.new_cache()
    with pytest.raises(ValueError, match=message):
        logits_of(model, ids, cache, n_logits)
    assert cache.n_past == 0


def test_a_cache_of_another_model_is_refused(model):
    cache = model.new_cache()
    cache.identity = cache.identity._replace(model="0" * 64)
    with pytest.raises(ValueError, match="another model"):
        logits_of(model, [1], cache)


def test_the_last_logits_are_those_of_all(model):
    ids = ids_of(model, 100)
    every = logits_of(model, ids, model.new_cache())
    assert every.shape == (100, model.config.vocab_size)
    for n_logits in (0, 1, 36, 37, 99):
        last = logits_of(model, ids, model.new_cache(), n_logits)
        assert np.array_equal(last, every[100 - n_logits :])


def test_the_context_can_be_filled_to_its_last_position(model):
    cache = model.new_cache()
    logits_of(model, ids_of(model, 127), cache, 1)
    logits_of(model, [1], cache)
    assert cache.n_past == 128
    with pytest.raises(ValueError, match="exceed"):
        logits_of(model, [1], cache)


def test_a_small_cache_gives_the_same_bits_and_holds_no_more_than_it_was_made_for(model):
    ids = ids_of(model, 37)
    cache = model.new_cache(37)
    logits = logits_of(model, ids, cache)
    assert np.array_equal(logits, logits_of(model, ids, model.new_cache()))
    with pytest.raises(ValueError, match="exceed n_positions 37"):
        logits_of(model, [1], cache)
    for n_positions in (0, model.n_positions + 1):
        with pytest.raises(ValueError, match="need 1 to 128"):
            model.new_cache(n_positions)


def test_a_team_that_shrinks_and_grows_between_steps_gives_the_same_bits(model, monkeypatch):
    ids = ids_of(model, 20)
    expected = logits_of(model, ids, model.new_cache())
    sizes = itertools.cycle((2, 1, 3, 1, 1, 3))
    monkeypatch.setattr(TeamSize, "learn", lambda self, *step: setattr(self, "now", next(sizes)))
    of_three = open_engine(model.path, n_threads=3)
    cache = of_three.new_cache()
    steps = [logits_of(of_three, [i], cache) for i in ids]
    of_three.close()
    assert np.array_equal(np.concatenate(steps), expected)


def test_time_up_leaves_the_cache_as_it_was(model):
    ids = ids_of(model, 60)
    cache = model.new_cache()
    logits_of(model, ids[:20], cache, 1)
    with pytest.raises(TimeUp):
        run_part(model, Part(ids[20:], cache, deadline=time.monotonic() - 1))
    assert cache.n_past == 20
    expected = logits_of(model, ids, model.new_cache())[20:]
    assert np.array_equal(logits_of(model, ids[20:], cache), expected)


def forward_forever(model: Engine, ids):
    while True:
        logits_of(model, ids, model.new_cache())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_a_step_leaves_the_model_usable(model):
    ids = ids_of(model, 128)
    expected = logits_of(model, ids, model.new_cache())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            forward_forever(model, ids)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(logits_of(model, ids, model.new_cache()), expected)


def test_work_that_fails_raises_where_it_is_waited_for():
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 // 0)


def test_work_is_left_when_time_is_up():
    with pytest.raises(TimeUp):
        run_interruptibly(lambda: time.sleep(60), time.monotonic() + 0.05)


def wait_on() -> None:
    """Nothing ends the step early."""


def test_only_as_many_threads_as_the_team_has_now_run_a_step(monkeypatch):
    monkeypatch.setattr(TeamSize, "learn", lambda self, *step: setattr(self, "now", self.now - 1))
    runs = []
    team = Team(3, lambda table, thread: runs.append((table, thread)) or 0)
    for _ in range(3):
        team.run(lambda cancel, n_threads: n_threads, wait_on)
    team.close()
    assert sorted(runs) == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


def test_a_thread_that_keeps_losing_its_core_is_left_out(monkeypatch):
    """Both are said to be preempted once a step; thread 1 alone to get no time meanwhile."""
    threads_of_steps = []
    calls = itertools.count()

    def step(table, thread):
        threads_of_steps.append((table, thread))
        numbers[threading.get_ident()] = thread
        time.sleep(0.01)
        return 0

    def core_time():
        ran = numbers.get(threading.get_ident(), 0) == 0
        return CoreTime(time.perf_counter() if ran else 0.0, next(calls))

    numbers = {}
    monkeypatch.setattr("codegen_cli.engine_cpu.threads.core_time", core_time)
    team = Team(2, step)
    for number in range(6):
        team.run(lambda cancel, n_threads, number=number: number, wait_on)
    team.close()
    # The first step begins before it is known which thread is which.
    assert (0, 1) in threads_of_steps
    assert (5, 1) not in threads_of_steps


class SlowStep:
    """Stands for compiled code: each call waits for `go`; tables that were run are kept."""

    def __init__(self):
        self.go = threading.Event()
        self.started = threading.Event()
        self.tables = []

    def __call__(self, table, thread):
        self.tables.append(table)
        self.started.set()
        self.go.wait(30)
        return 0


@pytest.fixture
def slow_team():
    step = SlowStep()
    team = Team(1, step)
    first = threading.Thread(target=team.run, args=(lambda cancel, n_threads: 1, wait_on))
    first.start()
    assert step.started.wait(10)
    yield team, step
    step.go.set()
    first.join()
    team.close()


def test_a_step_whose_time_is_up_before_its_turn_is_never_run(slow_team):
    team, step = slow_team
    deadline = time.monotonic() + 0.05
    with pytest.raises(TimeUp):
        team.run(lambda cancel, n_threads: 2, partial(check_deadline, deadline), deadline)
    assert not step.go.is_set()  # the first one still runs
    step.go.set()
    team.run(lambda cancel, n_threads: 3, wait_on)
    assert step.tables == [1, 3]


def test_a_step_of_a_closed_team_is_refused_after_those_before_it(slow_team):
    team, step = slow_team
    closing = threading.Thread(target=team.close)
    closing.start()
    time.sleep(0.05)
    step.go.set()
    with pytest.raises(ValueError, match="the model is closed"):
        team.run(lambda cancel, n_threads: 2, wait_on)
    assert step.tables == [1]


def test_each_step_is_cancelled_by_its_own_flag():
    flags = []

    def step(table, thread):
        flag = ctypes.c_int64.from_address(table)
        ends = time.monotonic() + 30
        while not flag.value and time.monotonic() < ends:
            time.sleep(0.001)
        flags.append(flag.value)
        return 1

    team = Team(1, step)
    for _ in range(2):
        deadline = time.monotonic() + 0.05
        with pytest.raises(TimeUp):
            team.run(lambda cancel, n_threads: cancel, partial(check_deadline, deadline), deadline)
    team.close()
    assert flags == [1, 1]


def test_a_team_that_closes_itself_while_collecting_garbage_ends():
    team = Team(2, lambda table, thread: 0)

    def fill_table(cancel, n_threads):
        team.close()
        return 1

    team.run(fill_table, wait_on)
    with pytest.raises(ValueError, match="the model is closed"):
        team.run(lambda cancel, n_threads: 2, wait_on)
