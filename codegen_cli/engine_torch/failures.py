"""What a device or its driver reports -> the error that a user can do something about."""

import contextlib
from collections.abc import Iterator

import torch

from quantize.files.errors import UserError


@contextlib.contextmanager
def device_failures() -> Iterator[None]:
    """Raise UserError where memory of a device is short, or the device has failed."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device has no memory left: {_first_line(error)}",
            "End other programs on it, or use a smaller format (int4) or model.",
        ) from error
    except torch.AcceleratorError as error:
        raise UserError(
            f"the device has failed: {_first_line(error)}",
            "Run again; if it fails again, `--device cpu` does without it.",
        ) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(
            f"there is no memory left: {_first_line(error)}", "End other programs."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
