"""A checkpoint's tokenizer.json, or the one that its vocab.json and merges.txt stand for.

The older checkpoints have only what transformers' CodeGenTokenizer reads:

    vocab.json               {token: id}, tokens in the byte-level spelling of GPT-2
    merges.txt               two tokens a line, by rank; a first line "#version..." is a comment
    added_tokens.json        {token: id} beside the vocabulary, as they read; may be absent
    special_tokens_map.json  which tokens are special; may be absent
    tokenizer_config.json    the same, add_prefix_space, and added_tokens_decoder; may be absent
"""

import json
import re
from pathlib import Path
from typing import TypedDict

from quantize.errors import UserError
from quantize.input_file import exists, quoted, read_input
from quantize.json_object import parse_json_object

TOKENIZER = "tokenizer.json"
VOCABULARY = ("vocab.json", "merges.txt")
COMPANIONS = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")

_LARGEST_BYTES = 64 << 20
_MOST_MERGES = 1 << 19  # CodeGen has 50,000; a line takes 60 bytes, however short it is
_LARGEST_ID = 2**32 - 1  # as the tokenizers library stores ids
_END_OF_TEXT = "<|endoftext|>"
_SPECIAL = dict.fromkeys(("unk_token", "bos_token", "eos_token"), _END_OF_TEXT) | {
    "pad_token": None
}
_LISTS_OF_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
_HINT = "Download the file again, or compare it with the original."


class Token(TypedDict):
    """An added token as tokenizer.json has it."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """Return the files of a directory that read_tokenizer reads, none when they are incomplete."""
    if exists(directory / TOKENIZER):
        return (directory / TOKENIZER,)
    required = [directory / name for name in VOCABULARY]
    if not all(map(exists, required)):
        return ()
    return (*required, *filter(exists, (directory / name for name in COMPANIONS)))


def read_tokenizer(directory: Path) -> bytes:
    """Return the content of a checkpoint's tokenizer.json, read or built from the older files.

    Both give the same ids for every text. Raises UserError when the files are absent, damaged or
    contradict each other.
    """
    files = {path.name: path for path in tokenizer_files(directory)}
    if not files:
        raise UserError(
            f"{directory} holds no {TOKENIZER}, need it or {' and '.join(VOCABULARY)} beside the "
            "weights",
            f"Download {TOKENIZER} from the weights' own repository.",
        )
    if TOKENIZER in files:
        content = read_input(files[TOKENIZER], _LARGEST_BYTES)
        parse_json_object(content, str(files[TOKENIZER]))
        return content
    return _built(directory, files)


def _built(directory: Path, files: dict[str, Path]) -> bytes:
    """The tokenizer.json that the older files of a directory stand for."""
    fields = {name: _read_object(path) for name, path in files.items() if name != "merges.txt"}
    vocab = _read_ids(files["vocab.json"], fields["vocab.json"])
    merges = _read_merges(files["merges.txt"], vocab)
    config = fields.get("tokenizer_config.json", {})
    listed = config.get("added_tokens_decoder")
    if listed is not None:  # then transformers leaves the other two files to older readers
        special = _special_tokens(directory / "tokenizer_config.json", config)
        added = _listed_tokens(directory / "tokenizer_config.json", listed)
    else:
        named = config | fields.get("special_tokens_map.json", {})
        special = _special_tokens(directory / "special_tokens_map.json", named)
        path = directory / "added_tokens.json"
        ids = _read_ids(path, fields.get("added_tokens.json", {}))
        added = {token: _token(token, ids[token], special.get(token)) for token in ids}
    tokens = _with_special(vocab, added, special)
    try:
        return _tokenizer_json(vocab, merges, tokens, config.get("add_prefix_space") is True)
    except UnicodeEncodeError as error:
        found = quoted(error.object[error.start : error.end])
        raise UserError(
            f"{directory}: the tokenizer has the lone surrogate {found}, need Unicode text",
            _HINT,
        ) from error


def _read_object(path: Path) -> dict[str, object]:
    return parse_json_object(read_input(path, _LARGEST_BYTES), str(path))


def _read_ids(path: Path, fields: dict[str, object]) -> dict[str, int]:
    """The {token: id} of a file, each id once."""
    ids: dict[str, int] = {}
    tokens: dict[int, str] = {}
    for token, token_id in fields.items():
        if type(token_id) is not int or not 0 <= token_id <= _LARGEST_ID:
            raise UserError(
                f"{path}: token {quoted(token)} has id {quoted(token_id)}, need a whole number "
                "from 0 on",
                _HINT,
            )
        if token_id in tokens:
            raise UserError(
                f"{path}: tokens {quoted(tokens[token_id])} and {quoted(token)} both have id "
                f"{token_id}, need one id each",
                _HINT,
            )
        ids[token], tokens[token_id] = token_id, token
    return ids


def _read_merges(path: Path, vocab: dict[str, int]) -> list[str]:
    """The merges of a file, each two tokens of the vocabulary that join to a third."""
    content = read_input(path, _LARGEST_BYTES)
    if content.count(b"\n") > _MOST_MERGES:
        raise UserError(f"{path} has more than {_MOST_MERGES} lines", _HINT)
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason}", _HINT) from error
    merges = []
    for number, line in enumerate(lines, start=1):
        merge = line.removesuffix("\r")
        if not merge or merge.startswith("#version"):
            continue
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= vocab.keys() or not right:
            raise UserError(
                f"{path} line {number}: found {quoted(merge)}, need two tokens of vocab.json that "
                "join to a third",
                _HINT,
            )
        merges.append(merge)
    return merges


def _token(content: str, token_id: int, flags: dict[str, bool] | None = None) -> Token:
    """An added token with some of its flags; special ones are found before all others."""
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


def _listed_tokens(path: Path, listed: object) -> dict[str, Token]:
    """The added_tokens_decoder of a tokenizer_config.json: {"50256": {"content": ..., ...}}."""
    tokens: dict[str, Token] = {}
    for key, entry in listed.items() if isinstance(listed, dict) else [("", None)]:
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not re.fullmatch("[0-9]{1,10}", key):
            raise UserError(
                f"{path}: added_tokens_decoder has {quoted({key: entry})}, need ids and tokens",
                _HINT,
            )
        tokens[content] = _token(content, int(key), _flags(entry))
    return tokens


def _special_tokens(path: Path, named: dict[str, object]) -> dict[str, dict[str, bool]]:
    """The special tokens of a checkpoint and their flags."""
    found: list[object] = [named.get(name, default) for name, default in _SPECIAL.items()]
    for name in _LISTS_OF_SPECIAL:
        listed = named.get(name)
        found += listed if isinstance(listed, list) else []
    special: dict[str, dict[str, bool]] = {}
    for token in found:
        content = token.get("content") if isinstance(token, dict) else token
        if content is None:
            continue
        if not isinstance(content, str) or not content:
            raise UserError(f"{path}: found special token {quoted(token)}, need a text", _HINT)
        special[content] = _flags(token) | {"special": True}
    return special


def _flags(entry: object) -> dict[str, bool]:
    """The flags of a token that is given with any, as {"content": ..., "lstrip": false, ...}."""
    given = entry if isinstance(entry, dict) else {}
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: given[name] is True for name in names if name in given}


def _with_special(
    vocab: dict[str, int], added: dict[str, Token], special: dict[str, dict[str, bool]]
) -> list[Token]:
    """All added tokens by id; a special one that has no id gets the next, as in transformers."""
    tokens = dict(added)
    n_ids = 1 + max([*vocab.values(), *(token["id"] for token in tokens.values())], default=-1)
    for content, flags in special.items():
        if content in tokens or (content == _END_OF_TEXT and content not in vocab):
            continue  # not every vocabulary has an end of text
        token_id = vocab.get(content, n_ids)
        n_ids = max(n_ids, token_id + 1)
        tokens[content] = _token(content, token_id, flags)
    return sorted(tokens.values(), key=lambda token: token["id"])


def _tokenizer_json(
    vocab: dict[str, int], merges: list[str], added_tokens: list[Token], add_prefix_space: bool
) -> bytes:
    """A tokenizer.json, of CodeGen's published files the one published with them, byte for byte."""
    fields = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": _byte_level(add_prefix_space, trim_offsets=True),
        "post_processor": _byte_level(True, trim_offsets=False),
        "decoder": _byte_level(True, trim_offsets=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return json.dumps(fields, ensure_ascii=False, indent=2).encode()


def _byte_level(add_prefix_space: bool, trim_offsets: bool) -> dict[str, object]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": True,
    }
