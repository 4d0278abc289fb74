"""Whether Ray is here, without the second that importing it takes."""

from importlib.util import find_spec

from quantize.files.errors import UserError

INSTALL_RAY = "pip install 'codegen-complete[ray]'"


def require_ray() -> None:
    """Raise UserError unless Ray, and what Ray Data needs, are installed."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise UserError(
            "--ray needs Ray Data, which is not installed", f"Install it: {INSTALL_RAY}"
        )
