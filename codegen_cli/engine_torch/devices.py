"""A device's name -> PyTorch's devices with their memory, or what keeps them from being used."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from codegen_cli.contract.device_name import TORCH_CPU, DeviceName
from codegen_cli.engine_torch.failures import device_failures
from quantize.files.errors import UserError

PYTORCH_PAGE = "https://pytorch.org/get-started/locally/"

_BUILD_HINT = f"Install the build for your GPU: {PYTORCH_PAGE}"
_MAKERS = {"cuda": "CUDA or ROCm", "xpu": "Intel's XPU", "mps": "Apple's Metal"}


class Device(NamedTuple):
    """A device that PyTorch can use.

    label        what it is called, for people
    free_bytes   of its memory that nobody uses; None: not known
    total_bytes  of its memory
    """

    device: torch.device
    label: str
    free_bytes: int | None
    total_bytes: int | None


def find_devices(name: DeviceName) -> list[Device]:
    """Return the devices of a name that PyTorch computes on; raises UserError where it cannot."""
    if name.kind == TORCH_CPU:
        return [Device(torch.device("cpu"), "CPU by PyTorch", None, None)]
    _require(name.kind)
    if name.kind == "mps":
        return [_metal()]
    backend = torch.cuda if name.kind == "cuda" else torch.xpu
    count = backend.device_count()
    for number in name.numbers:
        if number >= count:
            raise UserError(
                f"there is no {name.kind}:{number}: PyTorch finds {_counted(name.kind, count)}",
                "codegen doctor --device auto lists them.",
            )
    return [_numbered(name.kind, number) for number in name.numbers or (0,)]


def usable_devices() -> list[Device]:
    """Return every GPU that PyTorch can use, in its order."""
    return [device for kind in _MAKERS for device in _usable(kind)]


def _usable(kind: str) -> Iterator[Device]:
    with contextlib.suppress(UserError):
        _require(kind)
        count = 1 if kind == "mps" else getattr(torch, kind).device_count()
        for number in range(count):
            with contextlib.suppress(UserError):  # of one that is lost, or in use by another alone
                yield from find_devices(DeviceName(kind, () if kind == "mps" else (number,)))


def free_memory(device: torch.device) -> None:
    """Give back to a device what PyTorch keeps of its memory for later."""
    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()


def current(device: torch.device) -> "contextlib.AbstractContextManager[object]":
    """Have a device be the current one: what starts kernels by itself, as Triton, looks there."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).device(device)  # type: ignore[no-any-return]
    return contextlib.nullcontext()


def _require(kind: str) -> None:
    is_built, is_available, why = _STATES[kind]
    if not is_built():
        raise UserError(
            f"this PyTorch ({torch.__version__}) was built without {_MAKERS[kind]}", _BUILD_HINT
        )
    if not is_available():
        reason = why()
        raise UserError(
            f"PyTorch {torch.__version__} finds no GPU for {kind}{f': {reason}' * bool(reason)}",
            f"Look at the driver, or: {_BUILD_HINT}",
        )


def _why_no_cuda() -> str:
    """Return what the driver says, as that it is too old or not there."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return ""


def _has_cuda() -> bool:
    return bool(torch.version.cuda or torch.version.hip)


_STATES: dict[str, tuple[Callable[[], bool], Callable[[], bool], Callable[[], str]]] = {
    "cuda": (_has_cuda, torch.cuda.is_available, _why_no_cuda),
    "xpu": (torch.xpu._is_compiled, torch.xpu.is_available, str),
    "mps": (torch.backends.mps.is_built, torch.backends.mps.is_available, str),
}


def _numbered(kind: str, number: int) -> Device:
    backend = torch.cuda if kind == "cuda" else torch.xpu
    free, total = None, None
    # Some of Intel's drivers do not tell, for which PyTorch raises.
    silence = contextlib.suppress(RuntimeError) if kind == "xpu" else contextlib.nullcontext()
    with device_failures(), silence:
        free, total = backend.mem_get_info(number)
    label = f"{kind}:{number} ({backend.get_device_name(number)})"
    return Device(torch.device(kind, number), label, free, total)


def _metal() -> Device:
    total = torch.mps.recommended_max_memory()
    free = total - torch.mps.driver_allocated_memory()
    return Device(torch.device("mps"), "mps (Apple's GPU)", free, total)


def _counted(kind: str, count: int) -> str:
    return f"only {kind}:0" if count == 1 else f"{kind}:0 to {kind}:{count - 1}"
