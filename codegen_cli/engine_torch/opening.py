"""A packed file and a device's name -> a TorchEngine there."""

from collections.abc import Sequence

import torch

from codegen_cli.contract.device_name import TORCH_CPU, DeviceName
from codegen_cli.engine_torch.compiler_cache import keep_compiled_code
from codegen_cli.engine_torch.devices import Device, find_devices, usable_devices
from codegen_cli.engine_torch.kernel_check import check_kernels
from codegen_cli.engine_torch.kv_cache import cache_bytes
from codegen_cli.engine_torch.placement import Placement, place, workspace_bytes
from codegen_cli.engine_torch.products import kernel_runs_on
from codegen_cli.engine_torch.steps import cuda_graphs
from codegen_cli.engine_torch.torch_engine import CHUNK, TorchEngine
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile
from quantize.packed.sizes import packed_bytes

# The first is the one whose distributions are nearest to float32's (docs/gpu.md has the numbers).
_GPU_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_CPU_DTYPES = (torch.float32,)


def open_torch_engine(packed: PackedFile, name: DeviceName, n_threads: int | None) -> TorchEngine:
    """Return the engine of a packed file on the devices of a name.

    n_threads  that PyTorch computes with on the CPU; None: as many as it likes

    Raises UserError for devices that cannot be used, or have too little memory.
    """
    keep_compiled_code()
    devices = find_devices(name)
    dtypes = _CPU_DTYPES if name.kind == TORCH_CPU else _GPU_DTYPES
    placement = _placed(packed, devices, dtypes[0])
    [first, *others] = dict.fromkeys(placement.devices)
    record = cuda_graphs(first) if first.type == "cuda" and not others else None
    return TorchEngine(
        packed, placement, dtypes, record, n_threads if name.kind == TORCH_CPU else None
    )


def fitting_gpu(packed: PackedFile) -> tuple[DeviceName | None, str]:
    """Return a GPU that a model fits and what it is, or None and why there is no such."""
    devices = usable_devices()
    if not devices:
        return None, f"PyTorch {torch.__version__} finds no GPU"
    reasons = []
    for device in devices:
        try:
            _placed(packed, [device], _GPU_DTYPES[0])
        except UserError as error:
            reasons.append(error.message)
            continue
        kind, number = device.device.type, device.device.index
        return DeviceName(kind, () if number is None else (number,)), device.label
    return None, reasons[0]


def tried_kernels(device: torch.device) -> list[str]:
    """Return in words what the kernel gives for each format; [] where none runs."""
    keep_compiled_code()
    if not kernel_runs_on(device):
        return []
    return [str(check) for check in check_kernels(device, _GPU_DTYPES[0])]


def needed_bytes(config: ModelConfig, format: str) -> int:
    """Return what a model in a format takes of one GPU's memory, for all its positions."""
    caches = cache_bytes(config, config.n_positions, _GPU_DTYPES[0])
    return packed_bytes(config, format) + caches + workspace_bytes(config, CHUNK)


def _placed(packed: PackedFile, devices: Sequence[Device], dtype: torch.dtype) -> Placement:
    return place(packed, devices, dtype, workspace_bytes(packed.config, CHUNK))
