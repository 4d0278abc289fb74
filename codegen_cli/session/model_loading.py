"""A packed file that was chosen -> its engine, with a note where memory is short or time needed."""

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.engine import Engine
from codegen_cli.machine.memory import available_bytes
from codegen_cli.models.memory_need import warn_if_short
from codegen_cli.session.engines import open_engine
from codegen_cli.session.kernel_delay import KernelDelay
from quantize.packed.packed_file import PackedFile


def load_chosen(
    packed: PackedFile, name: str, n_threads: int | None = None, deadline: Deadline = None
) -> Engine:
    """Return the engine; n_threads None: one for each core that the process may use.

    Says so when the machine's memory is too small for it, and when kernels have to be compiled.
    Raises UserError and TimeUp as open_engine does.
    """
    warn_if_short(packed, name, available_bytes())
    with KernelDelay() as on_delay:
        return open_engine(packed, n_threads=n_threads, on_delay=on_delay, deadline=deadline)
