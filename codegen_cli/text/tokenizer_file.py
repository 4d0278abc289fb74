"""The bytes of a tokenizer.json -> a UserError before the tokenizers library sees what it must not.

That library is made for files that one trusts. For others it may end the process (a huge number
is a huge allocation), panic (a prefix longer than the tokens), or never end (regular expressions of
the file's own). So each field that it acts on must be as in CodeGen's files, a byte-level BPE.
"""

import hashlib
from collections.abc import Mapping

from quantize.errors import UserError
from quantize.input_file import quoted, shown
from quantize.json_object import parse_json_object

# CodeGen's own file, as published with all sizes: judged once, when this was written.
_PUBLISHED = "a3770c887bcf88249c0b971c0b7299c5c82da01e682a4b6243a084fbdea63681"
# Far above any CodeGen's, and the largest vocab_size that a config.json may have.
_LARGEST_ID = (1 << 22) - 1
_NOTHING = (None, "")
_HINT_OTHER = "Use the tokenizer.json of a CodeGen checkpoint."

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


def judge_tokenizer(data: bytes, where: str) -> dict[str, int]:
    """Judge the bytes of a tokenizer.json; return the ids that it gives its added tokens.

    `where` names the bytes in an error. The ids are the library's to judge; of CodeGen's own file,
    in which they are right, none are returned.

    Raises UserError for what is no JSON object, a tokenizer of another kind, and ids that no model
    has. What passes may still be refused by the tokenizers library, but as an error.
    """
    if hashlib.sha256(data).hexdigest() == _PUBLISHED:
        return {}
    try:
        fields = parse_json_object(data, where)
    except UserError as error:
        raise broken(where, error.message) from error
    if not isinstance(fields.get("model"), dict):
        raise broken(where, f"its model is {quoted(fields.get('model'))}")
    for name, types in _TYPES.items():
        _judge_type(name, fields.get(name), types, where)
    _judge_model(fields["model"], where)  # type: ignore[arg-type]
    return _judge_added_tokens(fields.get("added_tokens"), where)


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
        _judge_id(token, token_id, where)
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
        _judge_id(content, token.get("id"), where)
        ids[content] = token["id"]
    return ids


def _judge_id(token: str, token_id: object, where: str) -> None:
    if type(token_id) is not int or not 0 <= token_id <= _LARGEST_ID:
        found = f"{quoted(token)} has id {quoted(token_id)}"
        raise broken(where, f"its token {found}, need a whole number from 0 to {_LARGEST_ID}")


def _other(where: str, problem: str) -> UserError:
    return UserError(f"{where}: {problem}", _HINT_OTHER)
