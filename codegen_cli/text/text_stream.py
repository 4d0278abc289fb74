"""Ids, one at a time -> pieces of text made of whole characters only."""

import codecs
from collections.abc import Callable

from codegen_cli.text.token_text import DecodingErrors, not_utf8


class TextStream:
    """Decodes as ids arrive; all pieces joined equal `Tokenizer.decode` of all ids.

    token_bytes  an id -> the bytes that it adds to a text
    errors       what becomes of bytes that are not UTF-8; "strict" raises UserError there

    One character may take several ids, so the bytes of an unfinished one are held back. Bytes that
    can never become a character give U+FFFD at once (errors "replace"), one for each maximal
    invalid part: the practice of The Unicode Standard, section 3.9, which Python's decoder and the
    tokenizer share.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], errors: DecodingErrors = "replace"
    ) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, token_id: int) -> str:
        """Return the characters that this id completes, perhaps none."""
        return self._decode(self._token_bytes(token_id))

    def finish(self) -> str:
        """Return what is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, final: bool = False) -> str:
        try:
            return self._utf8.decode(data, final)
        except UnicodeDecodeError as error:
            raise not_utf8(error) from error
