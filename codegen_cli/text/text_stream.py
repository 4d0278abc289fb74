"""Ids, one at a time -> pieces of text made of whole characters only."""

import codecs

from codegen_cli.text.token_text import not_utf8
from codegen_cli.text.tokenizer import Tokenizer


class TextStream:
    """Decodes as ids arrive; all pieces joined equal `Tokenizer.decode` of all ids.

    One character may take several ids, so the bytes of an unfinished one are held back. Bytes that
    can never become a character give U+FFFD at once, one for each maximal invalid part: the
    practice of The Unicode Standard, section 3.9, which Python's decoder and the tokenizer share.
    Options with other errors have their say; "strict" raises UserError there.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.options.errors)

    def feed(self, token_id: int) -> str:
        """Return the characters that this id completes, perhaps none."""
        return self._decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """Return what is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, final: bool = False) -> str:
        try:
            return self._utf8.decode(data, final)
        except UnicodeDecodeError as error:
            raise not_utf8(error) from error
