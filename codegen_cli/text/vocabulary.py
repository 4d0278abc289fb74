"""What the ids of one model stand for, as far as generating asks."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from codegen_cli.text.token_text import DecodingErrors
from quantize.files.errors import UserError


class Vocabulary(NamedTuple):
    """What generating needs to know of a tokenizer.

    token_bytes  an id -> the bytes that it adds to a text
    errors       what becomes of bytes that are not UTF-8, as in `bytes.decode`
    end_ids      the ids that end a text
    missing_ids  the ids below vocab_size that no token has, ascending: never to be sampled
    """

    token_bytes: Callable[[int], bytes]
    errors: DecodingErrors
    end_ids: Collection[int]
    missing_ids: Sequence[int]


def check_ids(ids: Sequence[int], vocab_size: int, what: str) -> None:
    """Raise UserError, naming `what`, for an id of the tokenizer's that the model lacks."""
    if max(ids, default=0) >= vocab_size:
        raise UserError(
            f"{what} has id {max(ids)}, need ids below vocab_size {vocab_size}",
            "The tokenizer does not belong to this model: use the one of its checkpoint.",
        )
