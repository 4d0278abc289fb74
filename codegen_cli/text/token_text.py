"""Tokens as a vocabulary spells them -> bytes -> text."""

from typing import Literal

from quantize.files.errors import UserError

DecodingErrors = Literal["replace", "strict", "ignore", "backslashreplace", "surrogateescape"]


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


BYTE_OF_CHARACTER = _byte_of_character()


def bytes_of_token(token: str) -> bytes:
    """Return the bytes behind a token as the vocabulary spells it."""
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:  # an added token, such as a run of spaces, is spelled as it reads
        return token.encode()


def check_unicode(text: str, what: str = "the text") -> None:
    """Raise UserError when a text has a lone surrogate, which no UTF-8 stands for."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} is not Unicode text: found the lone surrogate "
            f"U+{ord(text[error.start]):04X} at character {error.start}",
            "Give text that was decoded as strict UTF-8.",
        ) from error


def not_utf8(error: UnicodeDecodeError) -> UserError:
    """Return the UserError for ids whose bytes are no text, where errors is "strict"."""
    found = error.object[error.start : error.end].hex(" ")
    return UserError(
        f"the ids are not UTF-8 text: found bytes {found} ({error.reason})",
        'errors="replace" shows such bytes as U+FFFD.',
    )
