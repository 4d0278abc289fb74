"""Float weights -> int4 scales, as scale_search finds them, in a process of their own.

    to it      number, n_out, n_in  3 i64, then weights [n_out, n_in]      f32
    from it    number, n_scales     2 i64, then scales  [n_out * n_groups] f16

It compiles the search once and serves several threads at the same time, so that answers come in
whatever order they are found.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedReader
from struct import Struct
from typing import BinaryIO, NoReturn, cast

import numpy as np

from quantize.description.formats import groups_of
from quantize.processes.clean_process import NO_NUMBA, failure, settle, start_clean
from quantize.rounding.groups import Float16, Float32

_SERVE = "from quantize.rounding.search_process import serve; serve()"
_QUESTION, _ANSWER = Struct("<3q"), Struct("<2q")


class SearchProcess:
    """A process that searches; the first search starts it. Several threads may ask it at once."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._asked: dict[int, Future[Float16]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Exception | None = None
        self._state = threading.Lock()  # held for all above
        self._writing = threading.Lock()

    def search(self, weights: Float32) -> Float16:
        """Return what `search_int4_scales` does.

        Raises UserError where the process is ended from outside, as for lack of memory. Where no
        Python can be started, all is done in this process.
        """
        answer: Future[Float16] = Future()
        with self._state:
            if self._end is not None:
                raise self._end
            process = self._process or self._start()
            number = next(self._numbers)
            if process is not None:
                self._asked[number] = answer
        if process is None:
            from quantize.rounding.scale_search import search_int4_scales  # brings numba

            return search_int4_scales(weights)
        n_out, n_in = weights.shape
        wire = cast(BinaryIO, process.stdin)
        with self._writing, contextlib.suppress(OSError, ValueError):  # gone: _hand_out tells of it
            wire.write(_QUESTION.pack(number, n_out, n_in))
            wire.write(np.ascontiguousarray(weights).data)
            wire.flush()
        return answer.result().reshape(n_out, groups_of(n_in))

    def close(self) -> None:
        """End the process, whatever it is doing; who waits for it gets an error."""
        with self._state:
            self._end = self._end or RuntimeError("the search for scales was closed")
            process = self._process
        if process is not None:
            process.kill()
            self._reader.join()

    def _start(self) -> "subprocess.Popen[bytes] | None":
        self._process = start_clean(_SERVE)
        if self._process is not None:
            arguments = (self._process,)
            self._reader = threading.Thread(target=self._hand_out, args=arguments, daemon=True)
            self._reader.start()
        return self._process

    def _hand_out(self, process: "subprocess.Popen[bytes]") -> None:
        """Give each answer to whoever waits for it; when there are no more, say why."""
        answers, errors = cast(BufferedReader, process.stdout), cast(BinaryIO, process.stderr)
        said = ""
        # What nobody has read is written once more as the pipe is closed.
        with contextlib.suppress(OSError), process:
            while len(head := answers.read(_ANSWER.size)) == _ANSWER.size:
                number, n_scales = _ANSWER.unpack(head)
                scales = np.empty(n_scales, np.float16)
                if answers.readinto(scales.data) < scales.nbytes:
                    break
                with self._state:
                    answer = self._asked.pop(number)
                answer.set_result(scales)
            said = errors.read().decode(errors="replace").strip()
        with self._state:
            self._end = self._end or failure("int4 scales cannot be searched", process, said)
            for answer in self._asked.values():
                answer.set_exception(self._end)


_shared: SearchProcess | None = None
_n_users = 0
_sharing = threading.Lock()


@contextlib.contextmanager
def shared_process() -> Iterator[SearchProcess]:
    """A process for all who are within at the same time; it ends when the last of them leaves.

    Compiling takes seconds: who packs many models enters first, and leaves last.
    """
    global _shared, _n_users
    with _sharing:
        process = _shared = _shared or SearchProcess()
        _n_users += 1
    try:
        yield process
    finally:
        with _sharing:
            _n_users -= 1
            if not _n_users:
                _shared = None
                process.close()


def _forget() -> None:
    """In a copy of this process: the one that searches is not the copy's."""
    global _shared, _n_users, _sharing
    _shared, _n_users, _sharing = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def serve() -> NoReturn:
    """Answer questions until nobody asks any more; the other side of SearchProcess."""
    wire, questions = settle(), cast(BufferedReader, sys.stdin.buffer)
    writing = threading.Lock()
    try:
        from quantize.rounding.scale_search import search_int4_scales
    except (ImportError, OSError) as error:
        sys.exit(f"{NO_NUMBA}: {error}")

    def answer(number: int, weights: Float32) -> None:
        try:
            scales = search_int4_scales(weights)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        with writing:
            wire.write(_ANSWER.pack(number, scales.size) + scales.tobytes())
            wire.flush()

    threads = ThreadPoolExecutor()  # as many as ask at once
    while len(head := questions.read(_QUESTION.size)) == _QUESTION.size:
        number, n_out, n_in = _QUESTION.unpack(head)
        weights = np.empty((n_out, n_in), np.float32)
        questions.readinto(weights.data)
        threads.submit(answer, number, weights)
    os._exit(0)
