"""A chosen packed file -> a model ready to run, with a note where memory is short for it."""

from codegen_cli.contract.deadline import Deadline
from codegen_cli.engine_cpu.model import Model, prepare_model
from codegen_cli.machine.memory import available_bytes
from codegen_cli.models.memory_need import warn_if_short
from codegen_cli.models.registry import PackedModel
from codegen_cli.session.kernel_delay import KernelDelay
from quantize.packed.packed_file import read_packed_file


def load_chosen(
    chosen: PackedModel, n_threads: int | None = None, deadline: Deadline = None
) -> Model:
    """Return the model; n_threads None: one for each core that the process may use.

    Says so when the machine's memory is too small for it, and when kernels have to be compiled.
    Raises UserError and TimeUp as engine_cpu.model.load_model does.
    """
    packed = read_packed_file(chosen.path)
    warn_if_short(packed, chosen.name, available_bytes())
    with KernelDelay() as on_delay:
        return prepare_model(packed, n_threads, on_delay, deadline)
