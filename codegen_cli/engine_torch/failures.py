"""What a device or its driver reports -> the error that a user can do something about."""

import contextlib
from collections.abc import Iterator

import torch

from quantize.files.errors import UserError

# What libraries below PyTorch say in a plain RuntimeError.
_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "_ALLOC_FAILED")
_FAILED = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "HIP error", "Triton Error", "XPU")


@contextlib.contextmanager
def device_failures() -> Iterator[None]:
    """Raise UserError where memory of a device is short, or the device has failed."""
    try:
        yield
    except RuntimeError as error:  # PyTorch's own errors are of this kind, too
        message = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(m in message for m in _NO_MEMORY):
            raise UserError(
                f"the device has no memory left: {_first_line(error)}",
                "End other programs on it, or use a smaller format (int4) or model.",
            ) from error
        if isinstance(error, torch.AcceleratorError) or any(m in message for m in _FAILED):
            raise UserError(
                f"the device has failed: {_first_line(error)}",
                "Run again; if it fails again, --device cpu does without it.",
            ) from error
        raise


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
