"""How text becomes ids and back: the options of transformers' CodeGenTokenizer, by its names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from codegen_cli.text.token_text import DecodingErrors
from quantize.checkpoint.added_tokens import END_OF_TEXT, USUAL_ROLES
from quantize.files.errors import UserError
from quantize.files.input_file import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerOptions:
    """The defaults add nothing to a text but what the file says.

    errors                 what decode does with bytes that are not UTF-8, as in `bytes.decode`
    add_prefix_space       put a space before text that begins without one, and after each added
                           token: the first word is then encoded as amid a line, and decode gives
                           the spaces too; None: as the file says
    add_bos_token          begin all ids with bos_token; None: as the file says, by a template
    return_token_type_ids  have CodeGenTokenizer.inputs return them, all 0
    unk_token              what CodeGenTokenizer.token_id takes an unknown token for; no text needs
                           it, for text consists of bytes and those have tokens
    bos_token, eos_token   begin and end a text
    pad_token              fills up the shorter texts in CodeGenTokenizer.inputs

    None stands for no such token; then add_bos_token adds none. A token that the file lacks is
    added behind its last id, as transformers does; no model has learnt it, so it is never sampled.
    Raises UserError on a value that errors cannot have, or an empty token.
    """

    errors: DecodingErrors = "replace"
    add_prefix_space: bool | None = None
    add_bos_token: bool | None = None
    return_token_type_ids: bool = False
    unk_token: str | None = END_OF_TEXT
    bos_token: str | None = END_OF_TEXT
    eos_token: str | None = END_OF_TEXT
    pad_token: str | None = None

    def __post_init__(self) -> None:
        valid = get_args(DecodingErrors)
        if self.errors not in valid:
            raise UserError(f"errors is {self.errors!r}, need one of {', '.join(valid)}")
        for name in USUAL_ROLES:
            if getattr(self, name) == "":
                raise UserError(f"{name} is empty, need the text of a token")

    @property
    def special_tokens(self) -> list[str]:
        """The four tokens, as far as there are any, each once."""
        tokens = (self.unk_token, self.bos_token, self.eos_token, self.pad_token)
        return list(dict.fromkeys(token for token in tokens if token is not None))


DEFAULTS = TokenizerOptions()
# Characters; `<|endoftext|>` has 13. The library's search tree takes 90 bytes for each byte.
_LONGEST_TOKEN = 1 << 12


def options_from(settings: Mapping[str, object], where: str) -> TokenizerOptions:
    """Return the options that a packed file's tokenizer_settings stand for.

    What later versions may put there is passed over. Raises UserError, naming `where`, for values
    of another type.
    """
    options: dict[str, Any] = {}
    for name in (*USUAL_ROLES, "return_token_type_ids"):
        if name not in settings:
            continue
        value = settings[name]
        if not (_is_token(value) if name in USUAL_ROLES else isinstance(value, bool)):
            need = "the text of a token or null" if name in USUAL_ROLES else "true or false"
            raise UserError(
                f"{where}: its tokenizer_settings have {name} {quoted(value)}, need {need}",
                "The file is damaged; quantize the checkpoint again.",
            )
        options[name] = value
    return TokenizerOptions(**options)


def _is_token(value: object) -> bool:
    """Whether the tokenizers library can add it: Unicode text, no longer than any token is."""
    if not isinstance(value, str):
        return value is None
    is_unicode = not any("\ud800" <= character <= "\udfff" for character in value)
    return 0 < len(value) <= _LONGEST_TOKEN and is_unicode
