"""A packed file -> an engine that runs it: the one place that knows which engines there are."""

from pathlib import Path

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.delay import OnDelay
from codegen_cli.contract.engine import Engine
from codegen_cli.contract.interruption import run_interruptibly
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile, read_packed_file

DEVICES = ("cpu",)


def open_engine(
    source: Path | PackedFile,
    device: str = "cpu",
    n_threads: int | None = None,
    *,
    on_delay: OnDelay = lambda delay: None,
    deadline: Deadline = None,
) -> Engine:
    """Return the engine of a packed file, ready to run.

    device     one of DEVICES
    n_threads  None: default_threads
    on_delay   told of what takes seconds: kernels that have to be compiled first

    Raises UserError for an unknown device, a file that is no valid packed file, or needs more
    memory than there is; TimeUp.
    """
    if device not in DEVICES:
        raise UserError(f"unknown device {device!r}", f"Devices: {', '.join(DEVICES)}.")
    packed = read_packed_file(source) if isinstance(source, Path) else source
    return _open_numba(packed, n_threads or default_threads(packed), on_delay, deadline)


def default_threads(packed: PackedFile) -> int:
    """Return the threads that a model runs on where nobody says how many.

    One for each core that the process may use, but no more than find work in the model.
    """
    from codegen_cli.engine_cpu.thread_limit import most_threads
    from codegen_cli.machine.cores import usable_cores

    return min(usable_cores().n_threads, most_threads(packed.config, packed.format))


def _open_numba(
    packed: PackedFile, n_threads: int, on_delay: OnDelay, deadline: Deadline
) -> Engine:
    from codegen_cli.engine_cpu.compile import kernel_cache
    from codegen_cli.engine_cpu.numba_engine import NumbaEngine

    step = run_interruptibly(lambda: kernel_cache.load_step(on_delay), deadline)
    return NumbaEngine(packed, step, n_threads)
