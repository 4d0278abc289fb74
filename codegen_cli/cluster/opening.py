"""--ray and a model -> an Answerer: whoever answers a job's lines, here a cluster.

This process writes OUT and never imports Ray, which has a process of its own (ray_process.py).
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Self, cast

from codegen_cli.batch.answer_line import Answer
from codegen_cli.batch.answering import Answerer
from codegen_cli.batch.line import Line
from codegen_cli.batch.settings import Settings
from codegen_cli.cluster.address import AUTO, FOUND, LOCAL, host_and_port
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
from codegen_cli.cluster.model_copy import PIECE_BYTES, shared_model
from codegen_cli.cluster.presence import require_ray
from codegen_cli.contract.device_name import CPU, parse_device
from codegen_cli.engine_cpu.numba_engine import identity_of
from codegen_cli.engine_cpu.thread_limit import most_threads
from codegen_cli.machine import places
from codegen_cli.models.model_choice import choose_model
from codegen_cli.models.registry import KnownModel, name_with_format, resolve
from codegen_cli.models.settings import default_device
from codegen_cli.terminal import console
from quantize.files.errors import UserError
from quantize.packed.packed_header import packed_text, read_packed_header
from quantize.processes.clean_process import start_clean

_SERVE = "from codegen_cli.cluster.ray_process import serve; serve()"
# Lines that are handed over at a time: of their bytes, and some for each. Between two portions
# workers wait for each other and load the model again, so that each should be worth minutes.
_PORTION_BYTES = 64 << 20
_LINE_BYTES = 1 << 10
# What the process has to clean up takes as long; then it is ended.
_END_SECONDS = 10


@contextlib.contextmanager
def on_cluster(
    address: str,
    model: str | None,
    threads: int | None = None,
    *,
    device: str | None = None,
    ignore_memory: bool = False,
    from_hub: bool = False,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[Answerer]:
    """Yield who answers lines on a Ray cluster; each worker of it has the model once.

    address      as address.py has them
    threads      of a worker; None: nodes.plan_team
    from_hub     nodes that lack the model download and pack it; else they get it from here
    piece_bytes  in such pieces

    Else as session.loading.load. Raises UserError: no Ray here, no cluster there, another codegen
    on one of its nodes, a model that cannot be had.
    """
    if address not in (FOUND, AUTO, LOCAL):
        host_and_port(address)
    require_ray()
    _require_cpu(device)
    chosen = choose_model(model)
    header = read_packed_header(chosen.path)
    packed = packed_text(header)
    hub = _hub_name(chosen.name) if from_hub else None
    task = Task(
        address=address,
        model=shared_model(header, chosen.name, packed.format, hub, piece_bytes),
        n_threads=threads,
        most_threads=most_threads(packed.config, packed.format),
        ignore_memory=ignore_memory,
        home=str(places.data_dir()) if os.environ.get("CODEGEN_HOME") else None,
    )
    with contextlib.ExitStack() as processes:
        process = processes.enter_context(_RayProcess())
        if not process.begin(task):
            process = processes.enter_context(_RayProcess())
            process.begin(task._replace(address=LOCAL))
        name = name_with_format(chosen.name, packed.format)
        yield Answerer(name, identity_of(header.sha256), process.answers)


def _require_cpu(option: str | None) -> None:
    device = option or default_device() or CPU
    if parse_device(device).kind != CPU:
        raise UserError(
            f"--ray computes on CPUs, not on {device}",
            "Only the CPUs' kernels give the same bytes on all machines: --device cpu.",
        )


def _hub_name(name: str) -> str:
    """Return what to download; UserError for a model that the hub does not have."""
    with contextlib.suppress(UserError):
        if isinstance(resolve(name), KnownModel):
            return name
    raise UserError(
        f"{name} is no model of the hub", "Without --ray-hub the packed file is brought from here."
    )


class _RayProcess:
    """Ray's process, under way; a context manager."""

    def __enter__(self) -> Self:
        # What Ray writes: of interest where it ends unexpectedly.
        self._said = tempfile.TemporaryFile()
        process = start_clean(_SERVE, stderr=self._said.fileno())
        if process is None:
            self._said.close()
            raise UserError("no process can be started for Ray", "Is there a limit (ulimit -u)?")
        self._process = process
        return self

    def __exit__(self, *error: object) -> None:
        """End it, and with it what it started: it leaves once its stdin ends."""
        process = self._process
        with contextlib.suppress(OSError):  # a message that it did not read is still in there
            self._questions.close()
        try:
            process.wait(_END_SECONDS)
        except BaseException:  # also a second Ctrl-C
            process.kill()
            process.wait()
        self._replies.close()
        self._said.close()

    def begin(self, task: Task) -> bool:
        """Have it connect; returns once there are workers to be had.

        False if this machine is in no cluster and the task's address is FOUND.
        """
        self._send(task)
        while not isinstance(message := self._receive(), Ready | Alone):
            _tell(message)
        return isinstance(message, Ready)

    def answers(self, lines: Iterable[Line], settings: Settings) -> Iterator[Answer]:
        """Yield the answers to lines; these are taken a portion at a time."""
        waiting = iter(lines)
        self._send(settings)
        while True:
            message = self._receive()
            if isinstance(message, Answers):
                yield from message.answers
            elif isinstance(message, Wanted):
                portion = _portion(waiting)
                self._send(portion)
                if not portion:
                    return
            else:
                _tell(message)

    @property
    def _questions(self) -> BinaryIO:
        return cast(BinaryIO, self._process.stdin)

    @property
    def _replies(self) -> BinaryIO:
        return cast(BinaryIO, self._process.stdout)

    def _send(self, message: object) -> None:
        # Where it has ended, `_receive` tells why.
        with contextlib.suppress(OSError):
            send(self._questions, message)

    def _receive(self) -> Any:
        try:
            message = receive(self._replies)
        except EOFError:
            raise self._ended() from None
        if isinstance(message, Failure):
            raise message.error()
        return message

    def _ended(self) -> UserError:
        code = self._process.wait()
        self._said.seek(0, io.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 4096))
        said = self._said.read().decode(errors="replace").strip().splitlines()
        how = said[-1] if said else f"exit {code}" if code >= 0 else f"signal {-code}"
        return UserError(
            f"Ray has ended: {how}",
            "Is the cluster still there? `ray status` tells; the same command goes on.",
        )


def _tell(message: object) -> None:
    if isinstance(message, Note):
        console.note(message.text)


def _portion(lines: Iterator[Line]) -> list[Line]:
    portion: list[Line] = []
    n_bytes = 0
    for line in lines:
        portion.append(line)
        n_bytes += len(line.content) + _LINE_BYTES
        if n_bytes > _PORTION_BYTES:
            break
    return portion
