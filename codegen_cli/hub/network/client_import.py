"""The module on the hub's client, imported when it is needed first: it takes a quarter of a second.

settings.py judges before what the client reads while it is imported.
"""

import contextlib
import io
from types import ModuleType

from quantize.files.errors import UserError


def import_client() -> ModuleType:
    """Return the module on the hub's client. Raises UserError if that cannot be imported."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints why it cannot be imported
            from codegen_cli.hub.network import client as hub_client
    except Exception as error:  # it acts on the environment while it is imported
        raise UserError(
            f"the hub's client cannot be imported: {type(error).__name__}: {error}",
            "Install it again: pip install --force-reinstall huggingface_hub",
        ) from error
    return hub_client
