"""tokenizer.json -> text to ids and back; the only module that imports tokenizers."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders

from quantize.errors import UserError

END_OF_TEXT = "<|endoftext|>"


def _byte_of_character() -> dict[str, int]:
    """Return the byte behind each character of a byte-level vocabulary.

    Bytes that print stand for themselves, the others for the characters from U+0100 on, in order
    (`bytes_to_unicode` of GPT-2, https://github.com/openai/gpt-2/blob/master/src/encoder.py).
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER = _byte_of_character()


class Tokenizer:
    """A checkpoint's byte-level BPE: nothing is added to, cut from or cleaned in any text."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self._missing_ids: dict[int, npt.NDArray[np.int64]] = {}
        # From the vocabulary: the `bos_token_id` of CodeGen's config.json names another token.
        self.end_of_text: int | None = inner.token_to_id(END_OF_TEXT)

    @classmethod
    def from_json(cls, data: bytes, where: str = "tokenizer.json") -> Self:
        """Read the bytes of a tokenizer.json.

        `where` names them in an error. Raises UserError when they are not a tokenizer, or one
        whose ids do not stand for bytes: streaming needs those.
        """
        try:
            inner = tokenizers.Tokenizer.from_buffer(data)
        except ValueError as error:
            raise UserError(
                f"{where} is not a tokenizer: {error}",
                "The file is damaged, or is no tokenizer.json; get the model again.",
            ) from error
        if not isinstance(inner.decoder, decoders.ByteLevel):
            raise UserError(
                f"{where}: found decoder {type(inner.decoder).__name__}, need ByteLevel",
                "Use the tokenizer.json of a CodeGen checkpoint.",
            )
        inner.no_truncation()
        inner.no_padding()
        return cls(inner)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def missing_ids(self, vocab_size: int) -> npt.NDArray[np.int64]:
        """Return the ids below a model's vocab_size that no token has, ascending, int64 [n].

        The model's head scores them (CodeGen pads 50295 tokens to 51200 rows), but nothing may
        sample them.
        """
        if vocab_size not in self._missing_ids:
            tokens = map(self._inner.id_to_token, range(vocab_size))
            missing = [i for i, token in enumerate(tokens) if token is None]
            self._missing_ids[vocab_size] = np.array(missing, np.int64)
        return self._missing_ids[vocab_size]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; `<|endoftext|>` in it becomes that token."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids and, for each, the index of the first character it covers.

        A character of several ids is the start of all of them. The start may skip leading blanks
        where the file's `trim_offsets` says so.
        """
        encoding = self._inner.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD, unknown ids nothing."""
        return self._inner.decode(ids, skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one id adds to a text, b"" for an id without a token."""
        token = self._inner.id_to_token(token_id)
        if token is None:
            return b""
        try:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:  # an added token, such as a run of spaces, is spelled as it reads
            return token.encode()
