"""A chosen packed file -> a model ready to run, with a note where memory is short for it."""

from codegen_cli import console
from codegen_cli.deadline import Deadline
from codegen_cli.engine.memory import available_bytes, warn_if_short
from codegen_cli.engine.model import Model, load_model
from codegen_cli.store.registry import PackedModel


def load_chosen(
    chosen: PackedModel, n_threads: int | None = None, deadline: Deadline = None
) -> Model:
    """Return the model; n_threads None: one for each core that the process may use.

    Says so when the machine's memory is too small for it, and when kernels have to be compiled.
    Raises UserError and TimeUp as load_model does.
    """
    model = load_model(chosen.path, n_threads, console.note_compiling, deadline)
    warn_if_short(model.packed, chosen.name, available_bytes())
    return model
