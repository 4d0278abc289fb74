"""A vocabulary, its merges and added tokens -> the bytes of a tokenizer.json."""

import json

from quantize.checkpoint.added_tokens import Token


def tokenizer_json(
    vocab: dict[str, int],
    merges: list[str],
    added_tokens: list[Token],
    add_prefix_space: bool,
    first: Token | None,
) -> bytes:
    """A tokenizer.json, of CodeGen's published files the one published with them, byte for byte.

    `first` begins every text.
    """
    fields = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": _byte_level(add_prefix_space, trim_offsets=True),
        "post_processor": _template(first) if first else _byte_level(True, trim_offsets=False),
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
    return json_bytes(fields)


def _byte_level(add_prefix_space: bool, trim_offsets: bool) -> dict[str, object]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": True,
    }


def _template(first: Token) -> dict[str, object]:
    """As transformers saves a tokenizer with add_bos_token."""
    text = first["content"]
    bos, sequence, second = (
        {"SpecialToken": {"id": text, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [bos, sequence],
        "pair": [bos, sequence, second],
        "special_tokens": {text: {"id": text, "ids": [first["id"]], "tokens": [text]}},
    }


def json_bytes(fields: object) -> bytes:
    """Return some JSON as the tokenizers library writes it."""
    return json.dumps(fields, ensure_ascii=False, indent=2).encode()
