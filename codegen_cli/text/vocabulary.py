"""What the ids of one model stand for, as far as generating asks."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from codegen_cli.text.token_text import DecodingErrors


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
