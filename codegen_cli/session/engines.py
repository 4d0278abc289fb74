"""A packed file -> an engine that runs it: the one place that knows which engines there are."""

from pathlib import Path

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.delay import OnDelay
from codegen_cli.contract.device_name import AUTO, CPU, DeviceName, parse_device
from codegen_cli.contract.engine import Engine
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.session.torch_presence import importing_torch, is_installed, require_devices
from codegen_cli.terminal import console
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile, read_packed_file


def open_engine(
    source: Path | PackedFile,
    device: str = CPU,
    n_threads: int | None = None,
    *,
    on_delay: OnDelay = lambda delay: None,
    deadline: Deadline = None,
) -> Engine:
    """Return the engine of a packed file, ready to run.

    device     as contract.device_name has them
    n_threads  None: default_threads; by PyTorch on the CPU, as many as it likes
    on_delay   told of what takes seconds: kernels that have to be compiled first

    Raises UserError for an unknown device or one that cannot be used, a file that is no valid
    packed file, or needs more memory than there is; TimeUp.
    """
    named = parse_device(device)
    if named.needs_torch:
        require_devices(named)
    packed = read_packed_file(source) if isinstance(source, Path) else source
    if named.kind == AUTO:
        named = parse_device(automatic_device(packed, deadline))
    if named.needs_torch:
        return run_interruptibly(lambda: _open_torch(packed, named, n_threads), deadline)
    return _open_numba(packed, n_threads or default_threads(packed), on_delay, deadline)


def automatic_device(packed: PackedFile, deadline: Deadline = None) -> str:
    """Return a GPU that can be used and that a model fits, else cpu; say which, and why."""
    name, reason = None, "PyTorch is not installed"
    if is_installed():
        try:
            name, reason = run_interruptibly(lambda: _fitting_gpu(packed), deadline)
        except UserError as error:
            reason = error.message
    console.note(f"running on {reason}" if name else f"running on the CPU: {reason}")
    return str(name or CPU)


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


def _open_torch(packed: PackedFile, name: DeviceName, n_threads: int | None) -> Engine:
    with importing_torch():
        from codegen_cli.engine_torch.opening import open_torch_engine
    return open_torch_engine(packed, name, n_threads)


def _fitting_gpu(packed: PackedFile) -> tuple[DeviceName | None, str]:
    with importing_torch():
        from codegen_cli.engine_torch.opening import fitting_gpu
    return fitting_gpu(packed)
