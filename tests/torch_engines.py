"""TorchEngines for tests: on the CPU, in a dtype, on as many devices as are named."""

from collections.abc import Sequence
from pathlib import Path

import torch

from codegen_cli.engine_torch.devices import Device
from codegen_cli.engine_torch.placement import Placement
from codegen_cli.engine_torch.torch_engine import TorchEngine
from quantize.packed.packed_file import read_packed_file

CPU = Device(torch.device("cpu"), "CPU", None, None)


def torch_engine(path: Path, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> TorchEngine:
    """Return the engine of a packed file."""
    packed = read_packed_file(path)
    return TorchEngine(packed, Placement((CPU,) * packed.config.n_layer), dtypes)
