"""Run Salesforce CodeGen models on an ordinary CPU.

    import codegen_cli

    with codegen_cli.load("350M-mono") as model:
        print(model.complete("def fib(n):"))

Names are imported when they are first used: `import codegen_cli` takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codegen_cli.decoding.options import GenerateOptions
    from codegen_cli.decoding.summary import Piece, Summary
    from codegen_cli.scoring.likelihood import Score
    from codegen_cli.session.generation import Generation, Request
    from codegen_cli.session.language_model import LanguageModel
    from codegen_cli.session.loading import load
    from codegen_cli.session.service import Service
    from codegen_cli.text.text_side import Prompt
    from quantize.files.errors import UserError

from codegen_cli.contract.version import __version__ as __version__

__all__ = [
    "GenerateOptions",
    "Generation",
    "LanguageModel",
    "Piece",
    "Prompt",
    "Request",
    "Score",
    "Service",
    "Summary",
    "UserError",
    "load",
]

_MODULES = {
    "GenerateOptions": "codegen_cli.decoding.options",
    "Generation": "codegen_cli.session.generation",
    "LanguageModel": "codegen_cli.session.language_model",
    "Piece": "codegen_cli.decoding.summary",
    "Prompt": "codegen_cli.text.text_side",
    "Request": "codegen_cli.session.generation",
    "Score": "codegen_cli.scoring.likelihood",
    "Service": "codegen_cli.session.service",
    "Summary": "codegen_cli.decoding.summary",
    "UserError": "quantize.files.errors",
    "load": "codegen_cli.session.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
