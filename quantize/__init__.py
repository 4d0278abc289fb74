"""Checkpoint -> tensors -> quantized groups -> packed file.

    import quantize

    quantize.quantize("checkpoint", "model.int4.safetensors", "int4")

Names are imported when they are first used: `import quantize` takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantize.files.errors import UserError
    from quantize.quantize_model import QuantizeSummary, TensorReport, quantize

__all__ = ["QuantizeSummary", "TensorReport", "UserError", "quantize"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "quantize.files.errors" if name == "UserError" else "quantize.quantize_model"
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
