"""The --device option -> the device to compute on, told at once where it cannot be."""

from codegen_cli.contract.device_name import CPU, parse_device
from codegen_cli.models import settings
from codegen_cli.session.torch_presence import require_devices
from quantize.files.errors import UserError


def choose_device(option: str | None) -> str:
    """Return what the user asked for, else the default of the settings, else the CPU.

    Raises UserError for an unknown device, and for one that cannot be used here.
    """
    if option:
        judge_device(option)
        return option
    default = settings.default_device()
    if default is None:
        return CPU
    try:
        judge_device(default)
    except UserError as error:
        hint = (
            f"{default} is the default device; choose another: codegen models default --device cpu"
        )
        raise UserError(error.message, f"{error.hint}  ({hint})") from error
    return default


def judge_device(text: str) -> None:
    """Raise UserError for a text that names no device, or none that can be used here."""
    name = parse_device(text)
    if name.needs_torch:
        require_devices(name)
