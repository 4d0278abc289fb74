"""Rows of weights -> their codes and scales (band_kernels.py), from a process of their own.

    to it      number, slot, format, is_half, n_rows, n_in                6 i64
    from it    number, squared error, squared weights, largest magnitude  i64, 3 f64

Rows, codes and scales lie in memory that both have mapped, in as many slots as there may be
questions at a time:

    slot       rows f32 or f16, then codes, then scales, without gaps

The process compiles a kernel once and serves several threads at the same time, so that answers come
in whatever order they are found.
"""

import contextlib
import itertools
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedReader
from struct import Struct
from typing import BinaryIO, NamedTuple, NoReturn, cast

import numpy as np

from quantize.description.formats import (
    BAND,
    GROUP,
    MATRIX_FORMATS,
    MatrixFormat,
    bands_of,
    groups_of,
)
from quantize.processes.clean_process import NO_NUMBA, failure, settle, start_clean
from quantize.rounding.groups import Bytes, Float16, Float32

_SERVE = "from quantize.rounding.rounding_process import serve; serve({descriptor})"
_QUESTION, _ANSWER = Struct("<6q"), Struct("<q3d")
# Pages of a slot take memory only once they are used.
_N_SLOTS, _SLOT_BYTES = 20, 16 << 20


class Totals(NamedTuple):
    """What is to be told of some rows: sums over them, and their largest magnitude or a NaN."""

    squared_error: float
    squared_weights: float
    largest: float


class Portion(NamedTuple):
    """Some rows of a matrix, and room for what becomes of them.

    rows    [n_bands * 16, n_groups * 32]  f32 or f16  to be filled; zeros beyond n_rows and n_in
    codes   [bytes]                        u8          as layout.codes_view has them
    scales  [n_bands * n_groups * 16]      f16         as layout.scales_view; empty for f16
    slot    where all that lies in shared memory; None where it does not
    """

    format: MatrixFormat
    n_rows: int
    n_in: int
    rows: Float32 | Float16
    codes: Bytes
    scales: Float16
    slot: int | None

    def row_scales(self) -> Float16:
        """Return the scales as groups.py has them, [n_rows, n_groups]."""
        in_bands = self.scales.reshape(-1, groups_of(self.n_in), BAND)
        return in_bands.transpose(0, 2, 1).reshape(-1, groups_of(self.n_in))[: self.n_rows]


class RoundingProcess:
    """A process that rounds; the first question starts it. Several threads may ask it at once."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._asked: dict[int, Future[Totals]] = {}
        self._is_new = True
        self._process: subprocess.Popen[bytes] | None = None
        self._memory: mmap.mmap | None = None
        self._end: Exception | None = None
        self._state = threading.Lock()  # held for all above
        self._writing = threading.Lock()
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()

    @contextlib.contextmanager
    def portion(
        self, format: MatrixFormat, n_rows: int, n_in: int, *, is_half: bool
    ) -> Iterator[Portion]:
        """Room for so many rows; is_half: of fp16, else of float32.

        Raises UserError as `round` does.
        """
        with self._state:
            if self._end is not None:
                raise self._end
            if self._is_new:
                self._start()
            process = self._process
        memory, sizes = self._memory, _sizes(format, n_rows, n_in, is_half=is_half)
        if process is None or memory is None or sum(sizes) > _SLOT_BYTES:
            yield new_portion(format, n_rows, n_in, is_half=is_half)
            return
        slot = self._free.get()
        try:
            place = np.frombuffer(memory, np.uint8, sum(sizes), slot * _SLOT_BYTES)
            portion = _portion(format, n_rows, n_in, place, is_half=is_half)
            portion.rows[n_rows:], portion.rows[:, n_in:] = 0, 0
            yield portion._replace(slot=slot)
        finally:
            self._free.put(slot)

    def round(self, portion: Portion) -> Totals:
        """Fill a portion's codes and scales.

        Raises UserError where the process is ended from outside, as for lack of memory. Where no
        Python can be started, all is done in this process.
        """
        if portion.slot is None:
            return round_here(portion)
        answer: Future[Totals] = Future()
        with self._state:
            if self._end is not None:
                raise self._end
            number = next(self._numbers)
            self._asked[number] = answer
            wire = cast(BinaryIO, cast("subprocess.Popen[bytes]", self._process).stdin)
        question = _QUESTION.pack(
            number,
            portion.slot,
            MATRIX_FORMATS[portion.format].number,
            portion.rows.dtype == np.float16,
            portion.n_rows,
            portion.n_in,
        )
        with self._writing, contextlib.suppress(OSError, ValueError):  # gone: _hand_out tells of it
            wire.write(question)
            wire.flush()
        return answer.result()

    def close(self) -> None:
        """End the process, whatever it is doing; who waits for it gets an error."""
        with self._state:
            self._end = self._end or RuntimeError("the rounding process was closed")
            process = self._process
        if process is not None:
            process.kill()
            self._reader.join()

    def _start(self) -> None:
        self._is_new = False
        with contextlib.ExitStack() as closing:
            try:
                descriptor = _anonymous_file()
                closing.callback(os.close, descriptor)
                self._memory = mmap.mmap(descriptor, _N_SLOTS * _SLOT_BYTES)
            except OSError:  # no memory to share
                return
            line = _SERVE.format(descriptor=descriptor)
            self._process = start_clean(line, inherits=(descriptor,))
        if self._process is not None:
            for slot in range(_N_SLOTS):
                self._free.put(slot)
            arguments = (self._process,)
            self._reader = threading.Thread(target=self._hand_out, args=arguments, daemon=True)
            self._reader.start()

    def _hand_out(self, process: "subprocess.Popen[bytes]") -> None:
        """Give each answer to whoever waits for it; when there are no more, say why."""
        answers, errors = cast(BufferedReader, process.stdout), cast(BinaryIO, process.stderr)
        said = ""
        # What nobody has read is written once more as the pipe is closed.
        with contextlib.suppress(OSError), process:
            while len(head := answers.read(_ANSWER.size)) == _ANSWER.size:
                number, *totals = _ANSWER.unpack(head)
                with self._state:
                    answer = self._asked.pop(number)
                answer.set_result(Totals(*totals))
            said = errors.read().decode(errors="replace").strip()
        with self._state:
            self._end = self._end or failure("weights cannot be rounded", process, said)
            for answer in self._asked.values():
                answer.set_exception(self._end)


_shared: RoundingProcess | None = None
_n_users = 0
_sharing = threading.Lock()


@contextlib.contextmanager
def shared_process() -> Iterator[RoundingProcess]:
    """A process for all who are within at the same time; it ends when the last of them leaves.

    Compiling takes seconds: who packs many models enters first, and leaves last.
    """
    global _shared, _n_users
    with _sharing:
        process = _shared = _shared or RoundingProcess()
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
    """In a copy of this process: the one that rounds is not the copy's."""
    global _shared, _n_users, _sharing
    _shared, _n_users, _sharing = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def serve(descriptor: int) -> NoReturn:
    """Answer questions until nobody asks any more; the other side of RoundingProcess.

    descriptor  of the file whose memory both share
    """
    wire, questions = settle(), cast(BufferedReader, sys.stdin.buffer)
    memory = mmap.mmap(descriptor, _N_SLOTS * _SLOT_BYTES)
    writing = threading.Lock()
    try:
        import quantize.rounding.band_kernels  # noqa: F401
    except (ImportError, OSError) as error:
        sys.exit(f"{NO_NUMBA}: {error}")
    names = {stored.number: name for name, stored in MATRIX_FORMATS.items()}

    def answer(number: int, slot: int, format: int, is_half: int, *sizes: int) -> None:
        try:
            n_rows, n_in = sizes
            n_bytes = sum(_sizes(names[format], n_rows, n_in, is_half=bool(is_half)))
            place = np.frombuffer(memory, np.uint8, n_bytes, slot * _SLOT_BYTES)
            portion = _portion(names[format], n_rows, n_in, place, is_half=bool(is_half))
            totals = round_here(portion)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        with writing:
            wire.write(_ANSWER.pack(number, *totals))
            wire.flush()

    threads = ThreadPoolExecutor(_N_SLOTS)  # as many as ask at once
    while len(head := questions.read(_QUESTION.size)) == _QUESTION.size:
        threads.submit(answer, *_QUESTION.unpack(head))
    os._exit(0)


def new_portion(format: MatrixFormat, n_rows: int, n_in: int, *, is_half: bool) -> Portion:
    """Room for so many rows in memory of its own, all zeros."""
    sizes = _sizes(format, n_rows, n_in, is_half=is_half)
    return _portion(format, n_rows, n_in, np.zeros(sum(sizes), np.uint8), is_half=is_half)


def round_here(portion: Portion) -> Totals:
    """Fill a portion's codes and scales in this process, which then has numba."""
    from quantize.rounding.band_kernels import round_bands  # brings numba

    return Totals(*round_bands(*portion[:-1]))


def _sizes(format: MatrixFormat, n_rows: int, n_in: int, *, is_half: bool) -> tuple[int, int, int]:
    """Return the bytes of a portion's rows, codes and scales; all but the last are whole lines."""
    n_tiles, stored = bands_of(n_rows) * groups_of(n_in), MATRIX_FORMATS[format]
    rows_bytes = n_tiles * BAND * GROUP * (2 if is_half else 4)
    return rows_bytes, n_tiles * stored.group_bytes, n_tiles * stored.scales_bytes


def _portion(
    format: MatrixFormat, n_rows: int, n_in: int, place: Bytes, *, is_half: bool
) -> Portion:
    """Return a portion that lies in `place`, u8 [sum(_sizes)]."""
    rows_bytes, codes_bytes, _ = _sizes(format, n_rows, n_in, is_half=is_half)
    flat = place[:rows_bytes]
    rows: Float32 | Float16 = flat.view(np.float16) if is_half else flat.view(np.float32)
    codes, scales = place[rows_bytes:][:codes_bytes], place[rows_bytes + codes_bytes :]
    shape = bands_of(n_rows) * BAND, groups_of(n_in) * GROUP
    rows = rows.reshape(shape)
    return Portion(format, n_rows, n_in, rows, codes, scales.view(np.float16), None)


def _anonymous_file() -> int:
    """Return the descriptor of a file without a name, as long as all slots."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("codegen-rounding")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _N_SLOTS * _SLOT_BYTES)
    return descriptor
