"""A child works beside its parent, is gone when it should be, and never speaks for itself.

Each test is a process of its own: pytest has NumPy and threads, beside which none is started.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="children are started on Linux only, and not on one core",
)

PREAMBLE = """
import os, signal, sys, threading, time
from codegen_cli.machine import child_process
from codegen_cli.machine.child_process import Parent, fork_child

def start_child(work):
    "A child that sends what work yields: an answer unasked, then one to each question."
    other = fork_child()
    if isinstance(other, Parent):
        with other:
            answers = work()
            other.answer(next(answers))
            while (question := other.question()) is not None:
                other.answer(answers.send(question))
    return other

def gone(pid):
    "Whether a process has ended; a zombie has."
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True

def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)

def echo():
    question = yield "ready"
    while True:
        question = yield question
"""


def start(script, **options):
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(script, expected=("", "")):
    process = start(script)
    assert process.communicate(timeout=60) == expected
    assert process.returncode == 0


def test_it_answers_of_its_own_accord_and_then_each_question():
    run(
        "child = start_child(echo)\n"
        "assert child.receive() == 'ready'\n"
        "for value in (0, -1, 2**70, '日', b'\\0', (1, ['x', {7: frozenset([2])}], 0.5)):\n"
        "    assert child.ask(value) == value\n"
    )


def test_an_answer_may_be_longer_than_a_pipe_holds():
    run(
        "child = start_child(echo)\n"
        "child.receive()\n"
        "text = bytes(range(256)) * (1 << 14)\n"
        "assert child.ask(b'short') == b'short'\n"
        "def long():\n"
        "    yield text\n"
        "    yield text\n"
        "other = start_child(long)\n"
        "assert other.receive() == text\n"
        "assert other.ask(1) == text\n"
    )


def test_it_works_while_its_parent_does():
    run(
        "def work():\n"
        "    yield time.monotonic()\n"
        "child = start_child(work)\n"
        "time.sleep(0.5)\n"
        "before = time.monotonic()\n"
        "assert child.receive() < before - 0.1\n"
    )


@pytest.mark.parametrize(
    "failure",
    [
        "raise ValueError",
        "raise KeyboardInterrupt",
        "sys.exit(3)",
        "os.abort()",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "return",
    ],
)
def test_its_failures_are_silence(failure):
    run(
        "def fails_at_once():\n"
        f"    {failure}\n"
        "    yield 1\n"
        "def fails_when_asked():\n"
        "    yield 1\n"
        f"    {failure}\n"
        "child = start_child(fails_at_once)\n"
        "assert child.receive() is None\n"
        "assert child.ask(1) is None\n"
        "child.close()\n"
        "child = start_child(fails_when_asked)\n"
        "assert child.receive() == 1\n"
        "assert child.ask(1) is None\n"
        "assert child.ask(2) is None\n"
        "child.close()\n"
    )


def test_what_it_prints_goes_nowhere():
    run(
        "print('parent', flush=True)\n"
        "sys.stdout.write('kept ')\n"
        "def work():\n"
        "    print('child', flush=True)\n"
        "    os.write(2, b'child')\n"
        "    yield sys.stdin.read()\n"
        "child = start_child(work)\n"
        "assert child.receive() == ''\n"
        "print('parent')\n",
        ("parent\nkept parent\n", ""),
    )


@pytest.mark.parametrize("moment", ["asked for nothing", "at work", "ended"])
def test_a_closed_one_ends_and_leaves_no_zombie(moment):
    work = {
        "asked for nothing": "    yield\n",
        "at work": "    while True: pass\n    yield\n",
        "ended": "    return\n",
    }
    run(
        "def work():\n"
        "    yield os.getpid()\n"
        f"{work[moment]}"
        "child = start_child(work)\n"
        "pid = child.receive()\n"
        + {
            "asked for nothing": "",
            "at work": "child._questions.write(b'\\1' + bytes(7) + b'N')\n",
            "ended": "assert child.ask(1) is None\nwait_until(lambda: gone(pid))\n",
        }[moment]
        + "started = time.monotonic()\n"
        "child.close()\n"
        "assert time.monotonic() - started < 0.2\n"
        "wait_until(lambda: not os.path.exists(f'/proc/{pid}'))\n"
    )


def test_a_caller_that_ignores_its_children_may_have_one():
    run(
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "for work in (echo, lambda: iter(())):\n"
        "    child = start_child(work)\n"
        "    child.receive()\n"
        "    child.close()\n"
    )


def test_it_ends_with_its_parent_and_keeps_no_reader_waiting():
    process = start(
        "child = start_child(echo)\n"
        "child.receive()\n"
        "print(child._process, flush=True)\n"
        "time.sleep(60)\n"
    )
    pid = int(process.stdout.readline())
    process.kill()
    assert process.stdout.read() == ""  # ends only when nobody can write any more
    process.communicate()
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:  # noqa: PTH110
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            if ") Z" in file.read():
                break
        time.sleep(0.001)
    else:
        assert time.monotonic() < end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_both_is_handled_by_the_parent_alone(number):
    process = start(
        "def handle(number, frame):\n"
        "    print('handled', flush=True)\n"
        "    sys.exit(7)\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "signal.signal(signal.SIGTERM, handle)\n"
        "def work():\n"
        "    time.sleep(60)\n"
        "    yield 1\n"
        "child = start_child(work)\n"
        "print('started', flush=True)\n"
        "child.receive()\n",
        start_new_session=True,
    )
    assert process.stdout.readline() == "started\n"
    os.killpg(process.pid, number)
    assert process.communicate(timeout=10) == ("handled\n", "")
    assert process.returncode == 7


def test_a_signal_amid_the_fork_runs_no_handler_in_the_child():
    run(
        "signal.signal(signal.SIGTERM, lambda number, frame: print('handled', flush=True))\n"
        "fork = os.fork\n"
        "def fork_and_signal():\n"
        "    process = fork()\n"
        "    if process == 0:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return process\n"
        "os.fork = fork_and_signal\n"
        "child = start_child(echo)\n"
        "assert child.receive() is None\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n",
        ("handled\n", ""),
    )


def test_a_deadline_ends_the_wait():
    run(
        "from codegen_cli.contract.deadline import TimeUp\n"
        "def work():\n"
        "    time.sleep(60)\n"
        "    yield 1\n"
        "child = start_child(work)\n"
        "try:\n"
        "    child.receive(time.monotonic() + 0.01)\n"
        "except TimeUp:\n"
        "    child.close()\n"
        "else:\n"
        "    raise AssertionError\n"
        "child = start_child(echo)\n"
        "assert child.receive(time.monotonic() + 60) == 'ready'\n"
    )


@pytest.mark.parametrize(
    "circumstance",
    [
        "import numpy",
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "sys.platform = 'darwin'",
    ],
)
def test_there_is_none_where_it_would_be_unsound_or_slower(circumstance):
    run(f"{circumstance}\nassert start_child(echo) is None\n")


@pytest.mark.parametrize("given", ["fork", "pipe"])
def test_there_is_none_where_the_system_gives_no_process_or_pipe(given):
    run(
        f"give, left = os.{given}, [{int(given == 'pipe')}]\n"
        "def refuse():\n"
        "    if left.pop():\n"
        "        left.append(0)\n"
        "        return give()\n"
        "    raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        f"os.{given} = refuse\n"
        "handles = len(os.listdir('/proc/self/fd'))\n"
        "assert start_child(echo) is None\n"
        "assert len(os.listdir('/proc/self/fd')) == handles\n"
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()\n"
    )
