"""The bytes of a tokenizer.json -> a UserError before the tokenizers library sees what it must not.

That library is made for files that one trusts. For others it may end the process (a huge number
is a huge allocation), panic (a prefix longer than the tokens), or never end (regular expressions of
the file's own). So each field that it acts on must be as in CodeGen's files, a byte-level BPE.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from quantize.files.errors import UserError
from quantize.files.input_file import quoted, shown
from quantize.files.json_object import parse_json_object

# CodeGen's own file, as published with all sizes: judged once, when this was written.
_PUBLISHED = "a3770c887bcf88249c0b971c0b7299c5c82da01e682a4b6243a084fbdea63681"
_PUBLISHED_TOKENS = 50295
# Far above any CodeGen's, and the largest vocab_size that a config.json may have.
_LARGEST_ID = (1 << 22) - 1
# CodeGen's have some 600. The library builds a search tree of them, 90 bytes for each byte.
_MOST_ADDED_CHARACTERS = 1 << 18
# Before a text: transformers puts bos_token there, or nothing.
_MOST_FIRST_IDS = 1
_NOTHING = (None, "")
_HINT_OTHER = "Use the tokenizer.json of a CodeGen or GPT-J checkpoint."

# For each field that stands for an object with a type: the types that may be there; None: nothing.
_TYPES: dict[str, tuple[str | None, ...]] = {
    "decoder": ("ByteLevel",),
    "normalizer": (None,),
    "pre_tokenizer": ("ByteLevel",),
    "post_processor": (None, "ByteLevel", "TemplateProcessing"),
    "model": ("BPE",),
}
# Options of the model that would change what it does, and the values that leave it a plain BPE.
_PLAIN_MODEL: dict[str, tuple[object, ...]] = {
    "dropout": (None, 0),
    "continuing_subword_prefix": _NOTHING,
    "end_of_word_suffix": _NOTHING,
    "fuse_unk": (None, False, True),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False, True),
}
_MODEL_FIELDS = frozenset({"type", "vocab", "merges", "unk_token", *_PLAIN_MODEL})


@dataclass(frozen=True, slots=True)
class JudgedFile:
    """What the tokenizers library does not tell of a file, or changes without a word.

    added_ids  the ids that the file gives its added tokens; of CodeGen's own, in which they are
               right, none
    n_dense    each id below it has a token; 0 where that is not known
    first_ids  what its template puts before every text
    """

    n_dense: int
    added_ids: dict[str, int] = field(default_factory=dict)
    first_ids: list[int] = field(default_factory=list)


def judge_tokenizer(data: bytes, where: str) -> JudgedFile:
    """Judge the bytes of a tokenizer.json; `where` names them in an error.

    Raises UserError for what is no JSON object, a tokenizer of another kind, and ids that no model
    has. What passes may still be refused by the tokenizers library, but as an error.
    """
    if hashlib.sha256(data).hexdigest() == _PUBLISHED:
        return JudgedFile(_PUBLISHED_TOKENS)
    try:
        fields = parse_json_object(data, where)
    except UserError as error:
        raise broken(where, error.message) from error
    if not isinstance(fields.get("model"), dict):
        raise broken(where, f"its model is {quoted(fields.get('model'))}")
    for name, types in _TYPES.items():
        _judge_type(name, fields.get(name), types, where)
    _judge_model(fields["model"], where)  # type: ignore[arg-type]
    ids = fields["model"]["vocab"].values()  # type: ignore[index]
    return JudgedFile(
        len(ids) if max(ids, default=0) == len(ids) - 1 else 0,
        _judge_added_tokens(fields.get("added_tokens"), where),
        _first_ids(fields.get("post_processor"), where),
    )


def broken(where: str, reason: str) -> UserError:
    """Return the error for bytes that make no tokenizer at all."""
    return UserError(
        f"{where} is not a tokenizer: {reason}",
        "The file is damaged, or is no tokenizer.json; get the model again.",
    )


def _judge_type(name: str, field: object, types: tuple[str | None, ...], where: str) -> None:
    if field is None and None in types:
        return
    # Old files do not say what kind of model they have.
    default = "BPE" if name == "model" else None
    kind = field.get("type", default) if isinstance(field, dict) else None
    if not isinstance(kind, str) or kind not in types:
        found = shown(kind) if isinstance(kind, str) else type(field).__name__
        need = " or ".join("none" if each is None else each for each in types)
        raise _other(where, f"found {name} {found}, need {need}")


def _judge_model(model: Mapping[str, object], where: str) -> None:
    for name in model.keys() - _MODEL_FIELDS:
        raise _other(where, f"its model has the field {quoted(name)}, which CodeGen's lacks")
    for name, plain in _PLAIN_MODEL.items():
        if model.get(name) not in plain:
            found = f"{name} {quoted(model[name])}"
            raise _other(where, f"its model has {found}, need {' or '.join(map(str, plain))}")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise broken(where, f"its vocab is {quoted(vocab)}")
    for token, token_id in vocab.items():
        _judge_id(f"its token {quoted(token)}", token_id, where)
    if len(set(vocab.values())) != len(vocab):
        raise broken(where, "two tokens of its vocab have one id")
    unknown = model.get("unk_token")
    if unknown not in _NOTHING and not (isinstance(unknown, str) and unknown in vocab):
        raise broken(where, f"its unk_token {quoted(unknown)} is not in its vocab")


def _judge_added_tokens(tokens: object, where: str) -> dict[str, int]:
    if tokens is None:
        return {}
    if not isinstance(tokens, list):
        raise broken(where, f"its added_tokens are {quoted(tokens)}")
    ids = {}
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not content:
            raise broken(where, f"it has the added token {quoted(token)}")
        _judge_id(f"its token {quoted(content)}", token.get("id"), where)
        ids[content] = token["id"]
    if sum(map(len, ids)) > _MOST_ADDED_CHARACTERS:
        raise broken(where, f"its added_tokens have more than {_MOST_ADDED_CHARACTERS} characters")
    return ids


def _first_ids(post_processor: object, where: str) -> list[int]:
    """The ids of the special tokens that stand before the text in a template, if there is one.

    What it puts behind the text is left out: a text that ends has no completion.
    """
    if not isinstance(post_processor, dict) or post_processor["type"] != "TemplateProcessing":
        return []
    try:
        ids: list[int] = []
        for piece in post_processor["single"]:
            if "SpecialToken" not in piece:
                break
            token = piece["SpecialToken"]["id"]
            ids += post_processor["special_tokens"][token]["ids"]
            if len(ids) > _MOST_FIRST_IDS:  # many pieces may name one long list
                break
    except (KeyError, TypeError, IndexError) as error:
        raise broken(where, f"its template is {quoted(post_processor)}") from error
    if len(ids) > _MOST_FIRST_IDS:
        found = f"begins with {len(ids)} tokens"
        raise _other(where, f"its template {found}, need {_MOST_FIRST_IDS} at most")
    for token_id in ids:
        _judge_id("its template's token", token_id, where)
    return ids


def _judge_id(what: str, token_id: object, where: str) -> None:
    if type(token_id) is not int or not 0 <= token_id <= _LARGEST_ID:
        found = f"{what} has id {quoted(token_id)}"
        raise broken(where, f"{found}, need a whole number from 0 to {_LARGEST_ID}")


def _other(where: str, problem: str) -> UserError:
    return UserError(f"{where}: {problem}", _HINT_OTHER)
