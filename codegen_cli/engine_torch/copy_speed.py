"""A device -> how fast its memory is: the limit of writing tokens there."""

import time

import torch

from codegen_cli.engine_torch.failures import device_failures

_COPIED_BYTES = 1 << 28
_N_COPIES = 8


def copy_bytes_per_second(device: torch.device) -> float:
    """Return the bytes that a large copy within a device's memory reads and writes a second.

    Takes some milliseconds on a GPU, and 0.5 GB of its memory.
    """
    with device_failures():
        source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        target.copy_(source)
        _wait_for(device)
        started = time.perf_counter()
        for _ in range(_N_COPIES):
            target.copy_(source)
        _wait_for(device)
    return 2 * _N_COPIES * _COPIED_BYTES / (time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
