"""vocab.json, merges.txt and their companions -> the tokenizer.json that they stand for."""

import json
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizer import TOKENIZER, TOKENIZER_JSON

from codegen_cli.text.tokenizer import Tokenizer
from quantize.checkpoint.reading import open_checkpoint
from quantize.checkpoint.tokenizer_files import read_tokenizer
from quantize.files.errors import UserError
from quantize.quantize_model import quantize

PUBLISHED = json.loads(TOKENIZER_JSON)
VOCAB = PUBLISHED["model"]["vocab"]
MERGES = "#version: 0.2 - Trained by `huggingface/tokenizers`\n" + "".join(
    f"{merge}\n" for merge in PUBLISHED["model"]["merges"]
)
ADDED = {token["content"]: token["id"] for token in PUBLISHED["added_tokens"][1:]}
END_OF_TEXT = "<|endoftext|>"
SPECIAL = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)

# A vocabulary that a test can look at: bytes, two merges, an end of text.
SMALL = {token: i for i, token in enumerate(["a", "b", "Ġ", "ab", "Ġab", END_OF_TEXT])}
SMALL_MERGES = "#version: 0.2\na b\nĠ ab\n"


def write(directory: Path, merges: str = SMALL_MERGES, **files: object) -> Path:
    """Write merges.txt and JSON files, named without .json; vocab is SMALL unless given."""
    (directory / "merges.txt").write_bytes(merges.encode())
    for name, content in ({"vocab": SMALL} | files).items():
        (directory / f"{name}.json").write_bytes(json.dumps(content).encode())
    return directory


def added_tokens(directory: Path) -> list[tuple[object, ...]]:
    """Content, id and special of each token."""
    tokens = json.loads(read_tokenizer(directory).json)["added_tokens"]
    return [(token["content"], token["id"], token["special"]) for token in tokens]


def refusal(directory: Path) -> UserError:
    with pytest.raises(UserError) as raised:
        read_tokenizer(directory)
    return raised.value


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = write(
        tmp_path_factory.mktemp("older"),
        MERGES,
        vocab=VOCAB,
        added_tokens=ADDED,
        special_tokens_map=SPECIAL,
        tokenizer_config=SPECIAL | {"add_prefix_space": False, "model_max_length": 2048},
    )
    return read_tokenizer(directory).json


def test_codegens_older_files_give_the_bytes_of_its_tokenizer_json(built):
    assert built == TOKENIZER_JSON


@given(st.text())
def test_both_files_give_the_same_ids(text):
    assert BUILT.encode(text) == TOKENIZER.encode(text)
    assert BUILT.encode(text, special_tokens=True) == TOKENIZER.encode(text, special_tokens=True)


def _built_from_other_files() -> Tokenizer:
    """Of other bytes: its merges are pairs, and the vocabulary comes first."""
    model = PUBLISHED["model"] | {"merges": [m.split(" ") for m in PUBLISHED["model"]["merges"]]}
    return Tokenizer.from_json(json.dumps({"model": model} | PUBLISHED | {"model": model}).encode())


BUILT = _built_from_other_files()


def test_tokenizer_json_comes_before_the_older_files(tmp_path):
    write(tmp_path, merges="damaged", vocab=[])
    (tmp_path / "tokenizer.json").write_bytes(b'{"version": "1.0"}')
    assert read_tokenizer(tmp_path).json == b'{"version": "1.0"}'


def test_vocabulary_and_merges_suffice(tmp_path):
    tokenizer = Tokenizer.from_json(read_tokenizer(write(tmp_path)).json)
    assert tokenizer.encode("ab ab b") == [3, 4, 2, 1]
    assert tokenizer.encode(f"a{END_OF_TEXT}", special_tokens=True) == [0, 5]
    assert tokenizer.end_of_text == 5
    assert added_tokens(tmp_path) == [(END_OF_TEXT, 5, True)]


def test_line_ends_of_windows_do_not_become_tokens(tmp_path):
    unix = read_tokenizer(write(tmp_path))
    assert read_tokenizer(write(tmp_path, SMALL_MERGES.replace("\n", "\r\n"))) == unix


def test_a_vocabulary_without_end_of_text_gets_none(tmp_path):
    vocab = {token: i for token, i in SMALL.items() if token != END_OF_TEXT}
    assert added_tokens(write(tmp_path, vocab=vocab)) == []


def test_special_tokens_are_those_that_the_companions_name(tmp_path):
    write(
        tmp_path,
        added_tokens={"  ": 6, "<mask>": 7, "<s>": 8},
        special_tokens_map={
            "bos_token": {"content": "<s>", "lstrip": True},
            "pad_token": "<pad>",
            "additional_special_tokens": ["<mask>", {"content": "ab"}],
        },
        tokenizer_config={"unk_token": None, "bos_token": "overruled"},
    )
    assert added_tokens(tmp_path) == [
        ("ab", 3, True),
        (END_OF_TEXT, 5, True),
        ("  ", 6, False),
        ("<mask>", 7, True),
        ("<s>", 8, True),
        ("<pad>", 9, True),  # no file has an id for it: the next, as in transformers
    ]
    tokens = {t["content"]: t for t in json.loads(read_tokenizer(tmp_path).json)["added_tokens"]}
    assert (tokens["<s>"]["lstrip"], tokens["<pad>"]["lstrip"]) == (True, False)
    assert (tokens["<s>"]["normalized"], tokens["  "]["normalized"]) == (False, True)
    tokenizer = Tokenizer.from_json(read_tokenizer(tmp_path).json)
    assert tokenizer.encode("<pad>ab  b<s>", special_tokens=True) == [9, 3, 6, 1, 8]


def test_added_tokens_decoder_takes_the_place_of_the_other_companions(tmp_path):
    write(
        tmp_path,
        added_tokens={"  ": 17},
        special_tokens_map={"pad_token": "<pad>"},
        tokenizer_config={
            "added_tokens_decoder": {
                "5": {"content": END_OF_TEXT, "special": True, "normalized": False},
                "6": {"content": "  ", "special": False, "normalized": True},
            }
        },
    )
    assert added_tokens(tmp_path) == [(END_OF_TEXT, 5, True), ("  ", 6, False)]


def test_a_prefix_space_of_the_config_is_kept(tmp_path):
    write(tmp_path, tokenizer_config={"add_prefix_space": True})
    assert Tokenizer.from_json(read_tokenizer(tmp_path).json).encode("ab") == [4]


def test_a_checkpoint_with_the_older_files_packs_to_the_same_bytes(tmp_path):
    config = small_config(vocab_size=64)
    source = write_checkpoint(tmp_path / "tiny", config, random_tensors(config, seed=1))
    quantize(source, tmp_path / "new", "int8", name="tiny")
    (source / "tokenizer.json").unlink()
    write(source, MERGES, vocab=VOCAB, added_tokens=ADDED, special_tokens_map=SPECIAL)
    assert open_checkpoint(source).tokenizer.json == TOKENIZER_JSON
    quantize(source, tmp_path / "older", "int8", name="tiny")
    assert (tmp_path / "older").read_bytes() == (tmp_path / "new").read_bytes()
    with pytest.raises(UserError):
        quantize(source, source / "merges.txt", "int8", name="tiny")
    assert (source / "merges.txt").read_text(encoding="utf-8") == MERGES


@pytest.mark.parametrize("absent", ["vocab.json", "merges.txt"])
def test_half_of_the_older_files_is_none(tmp_path, absent):
    (write(tmp_path) / absent).unlink()
    assert "holds no tokenizer.json, need it or vocab.json and merges.txt" in (
        refusal(tmp_path).message
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab": {"a": "0"}}, "vocab.json: token 'a' has id '0', need a whole number from 0 on"),
        ({"vocab": {"a": True}}, "vocab.json: token 'a' has id True, need a whole number"),
        ({"vocab": {"a": -1}}, "vocab.json: token 'a' has id -1, need a whole number"),
        ({"vocab": {"a": 1 << 32}}, "vocab.json: token 'a' has id 4294967296, need a whole"),
        ({"vocab": {"a": 0, "b": 0}}, "vocab.json: tokens 'a' and 'b' both have id 0"),
        ({"vocab": [1]}, "vocab.json is not a valid JSON object"),
        ({"added_tokens": {"  ": 1.5}}, "added_tokens.json: token '  ' has id 1.5"),
        ({"special_tokens_map": {"pad_token": 3}}, "special_tokens_map.json: found special token"),
        ({"special_tokens_map": {"pad_token": ""}}, "found special token '', need a text"),
        (
            {"tokenizer_config": {"added_tokens_decoder": [5]}},
            "tokenizer_config.json: added_tokens_decoder has ",
        ),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"-5": {"content": "x"}}}},
            "added_tokens_decoder has {'-5': {'content': 'x'}}, need ids and tokens",
        ),
        ({"tokenizer_config": {"added_tokens_decoder": {"5": "x"}}}, "has {'5': 'x'}"),
        ({"added_tokens": {"\ud800": 6}}, "has the lone surrogate '\\ud800'"),
        ({"merges": "#version: 0.2\na b\nb a\n"}, "merges.txt line 3: found 'b a', need two tok"),
        ({"merges": "a  b\n"}, "merges.txt line 1: found 'a  b'"),
        ({"merges": "ab\n"}, "merges.txt line 1: found 'ab'"),
    ],
    ids=str,
)
def test_damaged_files_are_named_with_what_was_found(tmp_path, files, message):
    error = refusal(write(tmp_path, **files))
    assert message in error.message
    assert error.hint


def test_merges_that_are_no_text_are_named(tmp_path):
    (write(tmp_path) / "merges.txt").write_bytes(b"a b\n\xff")
    assert "merges.txt is not UTF-8 text: invalid start byte" in refusal(tmp_path).message


def test_ids_with_gaps_are_refused_when_they_are_read(tmp_path):
    data = read_tokenizer(write(tmp_path, added_tokens={"  ": 9})).json
    with pytest.raises(UserError, match="the added token '  ' has id 9, need 6"):
        Tokenizer.from_json(data)
