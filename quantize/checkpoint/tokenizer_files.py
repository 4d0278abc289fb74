"""A checkpoint's tokenizer files -> one tokenizer.json, and what such a file cannot say.

transformers' CodeGenTokenizer reads these, and gives the same ids:

    tokenizer.json           the whole tokenizer; where it is absent, what follows makes up for it
    vocab.json               {token: id}, tokens in the byte-level spelling of GPT-2
    merges.txt               two tokens a line, by rank; a first line "#version..." is a comment

    added_tokens.json        {token: id} beside the vocabulary, as they read
    special_tokens_map.json  which tokens are special; left out where there is added_tokens_decoder
    tokenizer_config.json    the same, added_tokens_decoder, add_prefix_space, add_bos_token

The last three may be absent. Beside a tokenizer.json they can add to it, and add_prefix_space
overrides it (a missing one means false), but add_bos_token does not: a tokenizer.json that begins
each text with a token has a template that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard, cast

from quantize.checkpoint.added_tokens import (
    USUAL_ROLES,
    Flags,
    Token,
    listed_tokens,
    new_token,
    special_tokens,
    token_roles,
    with_special,
)
from quantize.checkpoint.tokenizer_json import json_bytes, tokenizer_json
from quantize.files.errors import UserError
from quantize.files.input_file import exists, quoted, read_input
from quantize.files.json_object import parse_json_object

TOKENIZER = "tokenizer.json"
VOCABULARY = ("vocab.json", "merges.txt")
COMPANIONS = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")

_ADDED, _SPECIAL_MAP, _CONFIG = COMPANIONS
_LARGEST_BYTES = 64 << 20
_MOST_MERGES = 1 << 19  # CodeGen has 50,000; a line takes 60 bytes, however short it is
_LARGEST_ID = 2**32 - 1  # as the tokenizers library stores ids
_HINT = "Download the file again, or compare it with the original."


@dataclass(frozen=True, slots=True)
class CheckpointTokenizer:
    """A checkpoint's tokenizer, as a packed file holds it.

    json        the content of a tokenizer.json, as it came unless files beside it have more to say
    settings    what that file has no place for: unk_token, bos_token, eos_token and pad_token where
                they are not the usual ones, and return_token_type_ids
    largest_id  that a text may have, special tokens left out; -1 for a file that is no byte-level
                BPE
    """

    json: bytes = field(repr=False)
    settings: dict[str, object]
    largest_id: int


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """Return the files of a directory that read_tokenizer reads, none when they are incomplete."""
    required = [directory / TOKENIZER]
    if not exists(required[0]):
        required = [directory / name for name in VOCABULARY]
    if not all(map(exists, required)):
        return ()
    return (*required, *filter(exists, (directory / name for name in COMPANIONS)))


def read_tokenizer(directory: Path) -> CheckpointTokenizer:
    """Return a checkpoint's tokenizer, read from tokenizer.json or built from the older files.

    Both give the same ids for every text. Raises UserError when the files are absent, damaged or
    contradict each other; whether a tokenizer.json makes sense is for its reader to judge.
    """
    files = {path.name: path for path in tokenizer_files(directory)}
    if not files:
        raise UserError(
            f"{directory} holds no {TOKENIZER}, need it or {' and '.join(VOCABULARY)} beside the "
            "weights",
            f"Download {TOKENIZER} from the weights' own repository.",
        )
    companions = {name: _read_object(files[name]) for name in COMPANIONS if name in files}
    try:
        if TOKENIZER in files:
            content, largest_id = _completed(directory, companions)
        else:
            content, largest_id = _built(directory, files, companions)
    except UnicodeEncodeError as error:
        found = quoted(error.object[error.start : error.end])
        raise UserError(
            f"{directory}: the tokenizer has the lone surrogate {found}, need Unicode text",
            _HINT,
        ) from error
    except RecursionError:
        raise UserError(f"{directory}: {TOKENIZER} is nested too deeply", _HINT) from None
    return CheckpointTokenizer(content, _settings(directory, companions), largest_id)


Companions = Mapping[str, dict[str, object]]


def _completed(directory: Path, companions: Companions) -> tuple[bytes, int]:
    """The tokenizer.json as it came, or with what the files beside it add; its largest_id."""
    path = directory / TOKENIZER
    content = read_input(path, _LARGEST_BYTES)
    fields = parse_json_object(content, str(path))
    model, pre_tokenizer = fields.get("model"), fields.get("pre_tokenizer")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    own = _own_tokens(fields.get("added_tokens"))
    if not _are_ids(vocab) or own is None or not isinstance(pre_tokenizer, dict):
        return content, -1  # no byte-level BPE: refused when it is loaded
    taken = {token["id"] for token in own.values()}
    beside = _companion_tokens(directory, companions, vocab)
    added = {text: token for text, token in beside.items() if token["id"] not in taken} | own
    tokens = with_special(vocab, added, _special_tokens(directory, companions, vocab))
    prefix = {"add_prefix_space": _adds_prefix_space(companions)}
    if tokens == list(own.values()) and pre_tokenizer | prefix == pre_tokenizer:
        return content, _largest_id(vocab, tokens)
    changes = {"added_tokens": tokens, "pre_tokenizer": pre_tokenizer | prefix}
    return json_bytes(fields | changes), _largest_id(vocab, tokens)


def _built(directory: Path, files: Mapping[str, Path], companions: Companions) -> tuple[bytes, int]:
    """The tokenizer.json that the older files stand for; its largest_id."""
    vocab_file, merges_file = (files[name] for name in VOCABULARY)
    vocab = _read_ids(vocab_file, _read_object(vocab_file))
    merges = _read_merges(merges_file, vocab)
    added = _companion_tokens(directory, companions, vocab)
    special = _special_tokens(directory, companions, vocab)
    bos_token = _bos_token(directory, companions)
    if bos_token is not None:
        special = {bos_token: {"special": True}} | special
    tokens = with_special(vocab, added, special)
    first = next((token for token in tokens if token["content"] == bos_token), None)
    content = tokenizer_json(vocab, merges, tokens, _adds_prefix_space(companions), first)
    return content, _largest_id(vocab, tokens)


def _largest_id(vocab: Mapping[str, int], tokens: list[Token]) -> int:
    """The largest id that a text may have."""
    special = {token["content"] for token in tokens if token.get("special") is True}
    ids = dict(vocab) | {token["content"]: token["id"] for token in tokens}
    return max((token_id for text, token_id in ids.items() if text not in special), default=-1)


def _own_tokens(listed: object) -> dict[str, Token] | None:
    """The added_tokens of a tokenizer.json by their texts; None if they are not such."""
    if listed is None:
        return {}
    tokens = {}
    for token in listed if isinstance(listed, list) else [None]:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            return None
        tokens[token["content"]] = cast(Token, token)
    return tokens if _are_ids({text: token.get("id") for text, token in tokens.items()}) else None


def _are_ids(ids: object) -> TypeGuard[dict[str, int]]:
    return isinstance(ids, dict) and all(type(token_id) is int for token_id in ids.values())


def _companion_tokens(
    directory: Path, companions: Companions, vocab: Mapping[str, int]
) -> dict[str, Token]:
    """The added tokens that tokenizer_config.json lists, or else added_tokens.json."""
    config = companions.get(_CONFIG, {})
    if config.get("added_tokens_decoder") is not None:
        return listed_tokens(directory / _CONFIG, config["added_tokens_decoder"])
    path = directory / _ADDED
    ids = _read_ids(path, companions.get(_ADDED, {}))
    special = _special_tokens(directory, companions, vocab)
    return {text: new_token(text, token_id, special.get(text)) for text, token_id in ids.items()}


def _special_tokens(
    directory: Path, companions: Companions, vocab: Mapping[str, int]
) -> dict[str, Flags]:
    path, named = _named(directory, companions)
    return special_tokens(path, named, vocab)


def _bos_token(directory: Path, companions: Companions) -> str | None:
    """The token that begins every text, if there is to be one."""
    if companions.get(_CONFIG, {}).get("add_bos_token") is not True:
        return None
    path, named = _named(directory, companions)
    return token_roles(path, named)["bos_token"]


def _settings(directory: Path, companions: Companions) -> dict[str, object]:
    """What a tokenizer.json has no place for; nothing is said of what is as usual."""
    path, named = _named(directory, companions)
    roles = token_roles(path, named)
    settings: dict[str, object] = {
        name: roles[name] for name, usual in USUAL_ROLES.items() if roles[name] != usual
    }
    if companions.get(_CONFIG, {}).get("return_token_type_ids") is True:
        settings["return_token_type_ids"] = True
    return settings


def _named(directory: Path, companions: Companions) -> tuple[Path, dict[str, object]]:
    """What names special tokens, and the file to blame for it."""
    config = companions.get(_CONFIG, {})
    if config.get("added_tokens_decoder") is not None:
        return directory / _CONFIG, config
    return directory / _SPECIAL_MAP, config | companions.get(_SPECIAL_MAP, {})


def _adds_prefix_space(companions: Companions) -> bool:
    return companions.get(_CONFIG, {}).get("add_prefix_space") is True


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
