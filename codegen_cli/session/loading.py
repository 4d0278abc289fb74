"""A model's name or file -> a LanguageModel: the one way that the commands and the API take.

NumPy and LLVM are imported by the functions, so that a process that reads a prompt can be started
before them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_cli.contract.deadline import Deadline
from codegen_cli.contract.device_name import AUTO, CPU, TORCH_CPU
from codegen_cli.decoding.option_values import whole_number
from codegen_cli.models.model_choice import choose_model
from codegen_cli.session.device_choice import choose_device
from codegen_cli.terminal import console
from codegen_cli.text.text_side import TextSide
from quantize.packed.packed_header import read_packed_header

if TYPE_CHECKING:
    from codegen_cli.contract.engine import Engine
    from codegen_cli.session.language_model import LanguageModel
    from quantize.packed.packed_file import PackedFile

MOST_THREADS = 1024
"""More would start none the faster, and a mistaken number could use up the system's threads."""


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    *,
    device: str | None = None,
    notes: bool = False,
    ignore_memory: bool = False,
) -> "LanguageModel":
    """Return a model ready to run.

    name_or_path  as after `codegen complete -m`: a name such as 350M-mono or 2B-multi:int4, a
                  packed file, or a checkpoint directory, which is packed first; a Path is never
                  a name; None: the default model
    threads       None: one per core that the process may use and the model keeps busy; a GPU needs
                  none of them
    device        as after `--device`: cpu, auto, cuda, cuda:1, ...; None: the default device
    notes         show on stderr what `codegen complete` would: packing, compiling
    ignore_memory run on the CPU a model that needs more memory than this machine has, or than its
                  control group allows: what does not fit is read from the disk for every token

    The first load on a machine compiles the kernels, 20 to 60 seconds. Raises UserError: an
    unknown name, a model that is not on this machine, a file that is no valid model, or one that
    needs more memory than there is.
    """
    if threads is not None:
        needed = f"1 to {MOST_THREADS}"
        threads = whole_number("threads", threads, needed, least=1, most=MOST_THREADS)
    if not isinstance(name_or_path, str | os.PathLike | None):
        raise TypeError(f"name_or_path is {name_or_path!r}, need text or a path")
    if device is not None and not isinstance(device, str):
        raise TypeError(f"device is {device!r}, need text")
    if not notes:
        with console.silence():
            return load(
                name_or_path, threads, device=device, notes=True, ignore_memory=ignore_memory
            )
    if isinstance(name_or_path, os.PathLike):
        name_or_path = str(Path(name_or_path).absolute())
    device = choose_device(device)
    chosen = choose_model(name_or_path)
    text = TextSide(read_packed_header(chosen.path))
    return load_model(text, chosen.name, threads, device, ignore_memory=ignore_memory)


def load_model(
    text: TextSide,
    name: str,
    n_threads: int | None,
    device: str,
    deadline: Deadline = None,
    *,
    ignore_memory: bool = False,
) -> "LanguageModel":
    """Return the model of a packed file whose text side is there already.

    Raises UserError and TimeUp as load_engine does, and as TextSide.tokenizer unless a child reads
    a prompt with it.
    """
    from codegen_cli.session.language_model import LanguageModel
    from quantize.packed.packed_file import packed_file

    packed = packed_file(text.header)
    if not text.is_ahead:
        text.tokenizer  # noqa: B018  what is wrong with it is told before the engine takes its time
    engine = load_engine(packed, name, n_threads, device, deadline, ignore_memory=ignore_memory)
    return LanguageModel(engine, text, name)


def load_engine(
    packed: "PackedFile",
    name: str,
    n_threads: int | None = None,
    device: str = CPU,
    deadline: Deadline = None,
    *,
    ignore_memory: bool = False,
) -> "Engine":
    """Return the engine of a model; n_threads None: session.engines.default_threads.

    Says so when less memory is free than it needs, and when kernels have to be compiled. Raises
    UserError and TimeUp as open_engine does, and UserError for a model that is to run on the CPU
    and needs more than there can be, unless ignore_memory.
    """
    from codegen_cli.machine.memory import available_bytes, memory_limit
    from codegen_cli.models.memory_need import judge_memory
    from codegen_cli.session.engines import automatic_device, open_engine
    from codegen_cli.session.kernel_delay import KernelDelay

    if device == AUTO:
        device = automatic_device(packed, deadline)
    if device in (CPU, TORCH_CPU):
        # PyTorch copies what it computes with, and judges that itself.
        limit = memory_limit() if device == CPU and not ignore_memory else None
        judge_memory(packed, name, available_bytes(), limit)
    with KernelDelay() as on_delay:
        return open_engine(packed, device, n_threads, on_delay=on_delay, deadline=deadline)
