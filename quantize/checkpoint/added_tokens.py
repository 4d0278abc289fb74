"""What a checkpoint's files say of tokens beside its vocabulary -> the added_tokens of one file.

The names and the order are transformers', so that a token without an id of its own gets the same.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from quantize.files.errors import UserError
from quantize.files.input_file import quoted

END_OF_TEXT = "<|endoftext|>"
USUAL_ROLES: dict[str, str | None] = {
    "bos_token": END_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "unk_token": END_OF_TEXT,
    "pad_token": None,
}
"""Which tokens have a part in CodeGenTokenizer where no file names others."""

_NAMES = "bos_token eos_token unk_token sep_token pad_token cls_token mask_token".split()
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_HINT = "Download the file again, or compare it with the original."

Flags = dict[str, bool]


class Token(TypedDict):
    """An added token as tokenizer.json has it."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


def new_token(content: str, token_id: int, flags: Flags | None = None) -> Token:
    """Return an added token with some of its flags; special ones are found before all others."""
    flags = flags or {}
    special = flags.get("special", False)
    return {
        "id": token_id,
        "content": content,
        "single_word": flags.get("single_word", False),
        "lstrip": flags.get("lstrip", False),
        "rstrip": flags.get("rstrip", False),
        "normalized": flags.get("normalized", not special),
        "special": special,
    }


def listed_tokens(path: Path, listed: object) -> dict[str, Token]:
    """Return the added_tokens_decoder of a tokenizer_config.json: {"50256": {"content": ...}}."""
    tokens: dict[str, Token] = {}
    for key, entry in listed.items() if isinstance(listed, dict) else [("", None)]:
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not re.fullmatch("[0-9]{1,10}", key):
            raise UserError(
                f"{path}: added_tokens_decoder has {quoted({key: entry})}, need ids and tokens",
                _HINT,
            )
        tokens[content] = new_token(content, int(key), _flags(entry))
    return tokens


def special_tokens(
    path: Path, named: Mapping[str, object], vocab: Mapping[str, int]
) -> dict[str, Flags]:
    """Return the special tokens that a file names, with the flags that it gives them.

    Where it names none for a role, the usual one is it if the vocabulary has that.
    """
    usual = {name: token for name, token in USUAL_ROLES.items() if token in vocab}
    found = [named.get(name, usual.get(name)) for name in _NAMES]
    listed = named.get("extra_special_tokens") or named.get("additional_special_tokens")
    found += listed if isinstance(listed, list) else []
    texts = [(_content(path, token), token) for token in found]
    return {text: _flags(token) | {"special": True} for text, token in texts if text is not None}


def token_roles(path: Path, named: Mapping[str, object]) -> dict[str, str | None]:
    """Return which tokens are bos, eos, unk and pad by what a file names."""
    return {name: _content(path, named.get(name, usual)) for name, usual in USUAL_ROLES.items()}


def with_special(
    vocab: Mapping[str, int], added: Mapping[str, Token], special: Mapping[str, Flags]
) -> list[Token]:
    """Return all added tokens by id; a special one that has no id gets the next."""
    tokens = dict(added)
    n_ids = 1 + max([*vocab.values(), *(token["id"] for token in tokens.values())], default=-1)
    for content, flags in special.items():
        if content in tokens:
            tokens[content] = {**tokens[content], "special": True}
            continue
        token_id = vocab.get(content, n_ids)
        n_ids = max(n_ids, token_id + 1)
        tokens[content] = new_token(content, token_id, flags)
    return sorted(tokens.values(), key=lambda token: token["id"])


def _content(path: Path, token: object) -> str | None:
    """The text of a special token as files give it: {"content": text, ...}, text or null."""
    content = token.get("content") if isinstance(token, dict) else token
    if content is not None and (not isinstance(content, str) or not content):
        raise UserError(f"{path}: found special token {quoted(token)}, need a text", _HINT)
    return content


def _flags(entry: object) -> Flags:
    """The flags of a token that is given with any, as {"content": ..., "lstrip": false, ...}."""
    given = entry if isinstance(entry, dict) else {}
    return {name: given[name] is True for name in _FLAGS if name in given}
