"""A device's name -> its GPUs: their memory, how fast it is, and which models fit there."""

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from codegen_cli.contract.device_name import AUTO, parse_device
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.measuring.findings import Gpu, Gpus, Problem
from codegen_cli.models.inventory import ModelState
from codegen_cli.models.registry import FORMATS
from codegen_cli.session.torch_presence import (
    INSTALL_TORCH,
    driver,
    importing_torch,
    require_devices,
)
from quantize.description.config import parse_config
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.engine_torch.devices import Device


def examine_gpus(device: str | None, states: Sequence[ModelState], problems: list[Problem]) -> Gpus:
    """Tell what can be told without PyTorch, and more of the devices that a user names.

    device  as contract.device_name has them; auto: all that PyTorch can use; None: do not import it
    """
    known = Gpus(driver(), _torch_version())
    if device is None:
        problems += _missing_torch(known)
        return known
    try:
        found = run_interruptibly(lambda: [_examined(each, states) for each in _devices(device)])
    except UserError as error:
        problems.append(Problem(f"{error.message}.", error.hint, is_broken=device != AUTO))
        return Gpus(known.driver, known.torch, [], error.message)
    return Gpus(known.driver, known.torch, found)


def _devices(text: str) -> "list[Device]":
    name = parse_device(text)
    require_devices(name)
    with importing_torch():
        from codegen_cli.engine_torch.devices import find_devices, usable_devices
    return usable_devices() if name.kind == AUTO else find_devices(name)


def _examined(device: "Device", states: Sequence[ModelState]) -> Gpu:
    from codegen_cli.engine_torch.copy_speed import copy_bytes_per_second
    from codegen_cli.engine_torch.opening import tried_kernels

    return Gpu(
        name=device.label,
        free_bytes=device.free_bytes,
        total_bytes=device.total_bytes,
        copy_bytes_per_second=copy_bytes_per_second(device.device),
        kernels=tried_kernels(device.device),
        fits=_fitting(device.free_bytes, states) if device.free_bytes else {},
    )


def _fitting(free_bytes: int, states: Sequence[ModelState]) -> dict[str, list[str]]:
    """Return by format the models that so many bytes of a GPU are enough for."""
    from codegen_cli.engine_torch.opening import needed_bytes

    configs = {
        state.name: parse_config({"model_type": "codegen", **state.dimensions}, state.name)
        for state in states
        if state.dimensions
    }
    return {
        format: [name for name, each in configs.items() if needed_bytes(each, format) <= free_bytes]
        for format in FORMATS
    }


def _missing_torch(gpus: Gpus) -> Iterator[Problem]:
    """Yield that a GPU lies idle, as far as its driver tells."""
    if gpus.driver and gpus.torch is None:
        yield Problem(
            f"{gpus.driver} driver of GPUs is loaded, but PyTorch, which --device needs, is not "
            "installed.",
            f"To use the GPU: {INSTALL_TORCH}.",
        )


def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None
