"""A prompt's text -> the ids that fit the model's context, and how much was cut."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from codegen_cli.text.token_text import check_unicode
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.text.tokenizer import Tokenizer

# Of a long text so much is encoded first, for each id to keep; code has 3 to 4.
_CHARACTERS_PER_ID = 16

Encode = Callable[[str], tuple[list[int], list[int]]]
"""A text -> its ids and, for each, the index of its first character."""


class FittedPrompt(NamedTuple):
    """The part of a prompt that the model reads.

    ids                    the ids of the kept text
    n_dropped_characters   cut from the front; 0 when the whole prompt fits
    first_line             number of the line in which the kept text begins, from 1
    """

    ids: list[int]
    n_dropped_characters: int
    first_line: int


def fit_prompt(
    text: str,
    tokenizer: "Tokenizer",
    *,
    n_positions: int,
    max_tokens: int,
    special_tokens: bool = False,
) -> FittedPrompt:
    """Keep the tail of a prompt that leaves room for max_tokens, but at least half the context.

    A prompt that is too long is cut where a line starts, or where a token starts when no line
    start is near enough to the end. Only the tail of a long text is encoded. `<|endoftext|>` is
    text in it unless special_tokens are asked for. Raises UserError when the prompt is empty or has
    lone surrogates.
    """
    if not text:
        raise UserError("the prompt is empty", "Give the beginning of the code to complete.")
    check_unicode(text, "the prompt")
    n_ids = max(n_positions - max_tokens, n_positions // 2) - len(tokenizer.first_ids)
    encode = partial(tokenizer.encode_with_starts, special_tokens=special_tokens)
    ids, start = _fitting_tail(text, max(n_ids, 1), encode, tokenizer.token_bytes)
    return FittedPrompt(tokenizer.first_ids + ids, start, text.count("\n", 0, start) + 1)


def _fitting_tail(
    text: str, n_ids: int, encode: Encode, token_bytes: Callable[[int], bytes]
) -> tuple[list[int], int]:
    """Return at most n_ids ids and the index of the character from which on they are the text."""
    ids, starts = _encode_tail(text, n_ids, encode)
    if len(ids) <= n_ids:
        return ids, 0
    first = len(ids) - n_ids
    kept_from_line = _cut_at_line(text, starts[first], n_ids, encode)
    if kept_from_line is not None:
        return kept_from_line
    while first < len(ids) - 1 and _continues_character(token_bytes(ids[first])):
        first += 1
    return ids[first:], starts[first]


def _encode_tail(text: str, n_ids: int, encode: Encode) -> tuple[list[int], list[int]]:
    """Return ids and their starts in `text`: all of them, or the last, at least 2 * n_ids.

    A text that begins amid a token may differ from the whole in its first few ids, hence the 2.
    """
    n_characters = n_ids * _CHARACTERS_PER_ID
    while True:
        skipped = max(0, len(text) - n_characters)
        ids, starts = encode(text[skipped:])
        if skipped == 0 or len(ids) >= 2 * n_ids:
            return ids, [skipped + start for start in starts]
        n_characters *= 2


def _cut_at_line(text: str, cut: int, n_ids: int, encode: Encode) -> tuple[list[int], int] | None:
    """Return the tail from the first line start at or after `cut`, None when that is blank."""
    newline = text.find("\n", max(0, cut - 1))
    while newline >= 0 and (kept := text[newline + 1 :]).strip():
        # What stood before can change the ids of what is kept: encode it by itself, and count.
        ids, _ = encode(kept)
        if len(ids) <= n_ids:
            return ids, newline + 1
        newline = text.find("\n", newline + 1)
    return None


def _continues_character(token: bytes) -> bool:
    """Tell whether a token begins with a byte from the inside of a UTF-8 character."""
    return bool(token) and token[0] & 0xC0 == 0x80
