"""How text becomes ids and back: the options of transformers' CodeGenTokenizer, by its names."""

from dataclasses import dataclass
from typing import get_args

from codegen_cli.text.token_text import DecodingErrors
from quantize.errors import UserError

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerOptions:
    """The defaults add nothing to any text.

    errors                 what decode does with bytes that are not UTF-8, as in `bytes.decode`
    add_prefix_space       put a space before text that begins without one, and after each added
                           token: the first word is then encoded as amid a line, and decode gives
                           the spaces too; None: as the file says
    add_bos_token          begin all ids with bos_token
    return_token_type_ids  have `Tokenizer.inputs` return them, all 0
    unk_token              what `Tokenizer.token_id` takes an unknown token for; no text needs it,
                           for text consists of bytes and those have tokens
    bos_token, eos_token   begin and end a text
    pad_token              fills up the shorter texts in `Tokenizer.inputs`

    A token that the file lacks is added behind its last id, as transformers does; no model has
    learnt it, so it is never sampled. Raises UserError on a value that errors cannot have, or an
    empty token.
    """

    errors: DecodingErrors = "replace"
    add_prefix_space: bool | None = None
    add_bos_token: bool = False
    return_token_type_ids: bool = False
    unk_token: str = END_OF_TEXT
    bos_token: str = END_OF_TEXT
    eos_token: str = END_OF_TEXT
    pad_token: str | None = None

    def __post_init__(self) -> None:
        valid = get_args(DecodingErrors)
        if self.errors not in valid:
            raise UserError(f"errors is {self.errors!r}, need one of {', '.join(valid)}")
        for name in ("unk_token", "bos_token", "eos_token", "pad_token"):
            if getattr(self, name) == "":
                raise UserError(f"{name} is empty, need the text of a token")

    @property
    def special_tokens(self) -> list[str]:
        """The four tokens, as far as there are any, each once."""
        tokens = (self.unk_token, self.bos_token, self.eos_token, self.pad_token)
        return list(dict.fromkeys(token for token in tokens if token is not None))


DEFAULTS = TokenizerOptions()
