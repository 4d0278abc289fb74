"""Whether PyTorch is here, can be imported, and finds the devices of a name."""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from codegen_cli.contract.device_name import DeviceName
from codegen_cli.contract.interruption import run_interruptibly
from quantize.files.errors import UserError

INSTALL_TORCH = "pip install torch, in the build for your GPU (pytorch.org/get-started/locally)"

# What drivers of GPUs show on Linux: NVIDIA's, and AMD's for computing.
_DRIVERS = {"NVIDIA's": "proc/driver/nvidia/version", "AMD's": "dev/kfd"}


def is_installed() -> bool:
    """Whether PyTorch is there, without the seconds that importing it takes."""
    return find_spec("torch") is not None


def driver(root: Path = Path("/")) -> str | None:
    """Return whose driver of GPUs is loaded, where Linux tells; None: nobody's that is known.

    root  where /proc and /dev are looked for
    """
    return next((maker for maker, path in _DRIVERS.items() if (root / path).exists()), None)


def require_devices(name: DeviceName) -> None:
    """Raise UserError unless PyTorch is here and finds the devices of a name."""
    if not is_installed():
        raise UserError(
            f"{name} needs PyTorch, which is not installed",
            f"Install it: {INSTALL_TORCH}. --device cpu does without.",
        )

    def find() -> None:
        with importing_torch():
            from codegen_cli.engine_torch.devices import find_devices
        find_devices(name)

    run_interruptibly(find)


@contextlib.contextmanager
def importing_torch() -> Iterator[None]:
    """Raise UserError where an installation of PyTorch is broken."""
    try:
        yield
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"PyTorch cannot be imported: {reason[0] if reason else type(error).__name__}",
            "Install it again, or use --device cpu.",
        ) from error
