"""The process in which Ray's driver runs, beside a command: messages.py tells what they say.

Ray writes to stdout and stderr whatever is set, takes over signals, and where it loses its cluster
it ends the process that it is in. All this happens here and reaches no command.
"""

import contextlib
import os
import queue
import secrets
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from codegen_cli.cluster.address import LOCAL
from codegen_cli.cluster.messages import (
    Alone,
    Answers,
    Failure,
    Note,
    Ready,
    Task,
    Wanted,
    receive,
    send,
)
from codegen_cli.terminal.console import size
from quantize.files.errors import UserError
from quantize.processes.clean_process import settle

if TYPE_CHECKING:
    from codegen_cli.cluster.nodes import Team


def serve() -> NoReturn:
    """Do the task that stdin gives, and end; at once where stdin ends before."""
    answers = settle()
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[sys.stdin.buffer, messages], daemon=True).start()
    try:
        _work(messages, answers)
    except Exception as error:
        with contextlib.suppress(OSError):
            send(answers, Failure.of(error))
        _end(1)
    _end(0)


def _listen(wire: BinaryIO, messages: "queue.SimpleQueue[Any]") -> None:
    """Take what the command says; once it has gone nobody wants anything any more."""
    try:
        while True:
            messages.put(receive(wire))
    except EOFError:
        _end(0)
    except BaseException:  # else the other threads would wait for ever
        traceback.print_exc()
        _end(1)


def _end(code: int) -> NoReturn:
    """Leave, whatever threads of Ray's are doing.

    A cluster of this run's own ends with this process, but for some helpers that notice it half a
    minute later: they are in its group.
    """
    sys.stderr.flush()
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(code)


def _work(messages: "queue.SimpleQueue[Any]", answers: BinaryIO) -> None:
    task: Task = messages.get()
    _set_up_ray(task)
    from codegen_cli.cluster.connection import NoneFound, connected

    def give_up(error: UserError) -> None:
        send(answers, Failure.of(error))
        _end(1)

    try:
        with connected(task.address, give_up):
            _answer(task, messages, answers)
    except NoneFound:
        send(answers, Alone())


def _set_up_ray(task: Task) -> None:
    """Set what Ray reads when it is imported, and what it starts has from here."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if task.home:
        os.environ["CODEGEN_HOME"] = task.home
    if task.address == LOCAL:
        # Others reach its ports, too, and who talks to them can run anything: a secret of this run.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _answer(task: Task, messages: "queue.SimpleQueue[Any]", answers: BinaryIO) -> None:
    import ray

    from codegen_cli.cluster.dataset import answer_portion
    from codegen_cli.cluster.nodes import ask_nodes, nodes, plan_team
    from codegen_cli.cluster.versions import versions
    from codegen_cli.cluster.worker import Work
    from codegen_cli.engine_cpu.numba_engine import identity_of

    need, driver = versions(), ray.get_runtime_context().get_node_id()
    asked: set[str] = set()
    settings = None
    while True:
        found = nodes()
        team = plan_team(found, task.n_threads, task.most_threads)
        new = [node for node in found if node.id not in asked]
        lacking = ask_nodes(new, task.model, need)
        asked |= {node.id for node in new}
        if new:
            send(answers, Note(_told(len(found), team, len(lacking), task)))
        if settings is None:
            send(answers, Ready())
            settings = messages.get()
        send(answers, Wanted())
        lines = messages.get()
        if not lines:
            return
        identity = identity_of(task.model.sha256)
        work = Work(
            task.model, settings, team.n_threads, task.ignore_memory, need, identity, driver
        )
        for some in answer_portion(lines, work, team):
            send(answers, Answers(some))


def _told(n_nodes: int, team: "Team", n_lacking: int, task: Task) -> str:
    workers = f"{_counted(team.n_workers, 'worker')} of {_counted(team.n_threads, 'thread')}"
    text = f"{workers} on {_counted(n_nodes, 'node')} of a Ray cluster"
    if n_lacking and task.model.hub:
        text += f"; {n_lacking} of them download {task.model.hub} from the hub"
    elif n_lacking:
        text += f"; {n_lacking} of them get the model from here, {size(task.model.n_bytes)}"
    return text


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
