"""What all lines of a job have in common, wherever they are answered."""

from dataclasses import dataclass, field

from codegen_cli.decoding import defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to answer lines: all that the bytes of an answer depend on beside its line and the model.

    model    the running model's name, as answers state it
    options  those of GenerateOptions and of request_line that hold where a line has none of its own
    created  Unix time that answers state
    draft    as in GenerateOptions: it changes no text
    """

    model: str
    options: dict[str, object] = field(default_factory=dict)
    created: int = 0
    draft: int = defaults.DRAFT
