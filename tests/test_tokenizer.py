"""Ids of known texts, the round trip of any text, and files that are no tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizer import END_OF_TEXT_ID, TOKENIZER, TOKENIZER_JSON, VOCAB_SIZE

from codegen_cli.tokenizer import Tokenizer
from quantize.errors import UserError

PUBLISHED = {
    "Hello world": [15496, 995],
    " Hello world": [18435, 995],
    "The dog": [464, 3290],
    "def fib(n):": [4299, 12900, 7, 77, 2599],
    "def hello_world():": [4299, 23748, 62, 6894, 33529],
    "# this function prints hello world": [2, 428, 2163, 20842, 23748, 995],
    "def fib(n):\n    if n < 2:\n        return n\n": [
        *(4299, 12900, 7, 77, 2599, 198, 50284, 361, 299, 1279, 362, 25, 198),
        *(50280, 7783, 299, 198),
    ],
    "\n  ": [198, 50286],
    "\n   \n": [198, 50285, 198],
    "  \t  x": [50286, 197, 50286, 87],
    "\r\n  a": [201, 198, 50286, 64],
    "héllo ✓ 日本語": [71, 2634, 18798, 24762, 10545, 245, 98, 17312, 105, 45739, 252],
    "日本": [33768, 98, 17312, 105],
    "<|endoftext|>def f": [50256, 4299, 277],
    " " * 31: [50257],
    " " * 32: [50257, 220],
    " " * 33: [50257, 50286],
    "\t" * 9: [50287],
    "\t" * 10: [50287, 197],
}


def changed_file(**changes: object) -> bytes:
    return json.dumps(json.loads(TOKENIZER_JSON) | changes).encode()


@pytest.mark.parametrize(("text", "ids"), PUBLISHED.items())
def test_known_texts_give_their_ids_and_back(text, ids):
    assert TOKENIZER.encode(text) == ids
    assert TOKENIZER.decode(ids) == text


@given(st.text())
def test_decoding_the_ids_of_any_text_gives_the_text(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_spacing_before_punctuation_is_left_as_it_is():
    text = "x = [ 1 , 2 ] ; do n't  ! \r\n\t\r\n "
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text())
def test_bytes_of_the_ids_joined_are_the_text_in_utf8(text):
    assert b"".join(map(TOKENIZER.token_bytes, TOKENIZER.encode(text))) == text.encode()


def test_every_single_id_decodes_to_its_bytes():
    for token_id in range(VOCAB_SIZE):
        text = TOKENIZER.token_bytes(token_id).decode(errors="replace")
        assert TOKENIZER.decode([token_id]) == text, token_id


@given(st.text(alphabet="ab \n\t日😀é", max_size=60))
def test_starts_point_at_the_first_character_of_each_id(text):
    ids, starts = TOKENIZER.encode_with_starts(text)
    assert ids == TOKENIZER.encode(text)
    n_bytes = 0
    for token_id, start in zip(ids, starts, strict=True):
        whole_characters = text.encode()[:n_bytes].decode(errors="ignore")
        assert start == len(whole_characters)
        n_bytes += len(TOKENIZER.token_bytes(token_id))


def test_end_of_text_is_the_vocabularys_and_decodes_visibly():
    assert TOKENIZER.end_of_text == END_OF_TEXT_ID
    assert TOKENIZER.decode([END_OF_TEXT_ID]) == "<|endoftext|>"


def test_a_vocabulary_without_end_of_text_has_none():
    fields = json.loads(TOKENIZER_JSON)
    del fields["model"]["vocab"]["<|endoftext|>"]
    fields["added_tokens"] = []
    assert Tokenizer.from_json(json.dumps(fields).encode()).end_of_text is None


def test_missing_ids_are_those_that_no_token_has():
    assert TOKENIZER.vocab_size == 50295
    assert TOKENIZER.missing_ids(VOCAB_SIZE).tolist() == list(range(50295, 51200))
    assert TOKENIZER.missing_ids(VOCAB_SIZE).dtype == np.int64
    assert TOKENIZER.missing_ids(1000).tolist() == []


def test_a_hole_in_the_vocabulary_is_missing_too():
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 4}, "unk_token": "a"}
    tokenizer = Tokenizer.from_json(changed_file(model=model, added_tokens=[]))
    assert tokenizer.missing_ids(7).tolist() == [2, 3, 5, 6]


def test_truncation_and_padding_of_the_file_are_turned_off():
    data = changed_file(
        truncation={
            "direction": "Right",
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        padding={
            "strategy": {"Fixed": 50},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
    )
    text = "def fib(n):\n    if n < 2:\n        return n\n"
    assert Tokenizer.from_json(data).encode(text) == PUBLISHED[text]


def test_a_template_of_the_file_adds_no_tokens():
    data = changed_file(
        post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {
                "<|endoftext|>": {
                    "id": "<|endoftext|>",
                    "ids": [END_OF_TEXT_ID],
                    "tokens": ["<|endoftext|>"],
                }
            },
        }
    )
    assert Tokenizer.from_json(data).encode("The dog") == [464, 3290]


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff\xfe", TOKENIZER_JSON[:1000]])
def test_a_broken_file_is_named_with_what_to_do(data):
    with pytest.raises(UserError, match=r"^dir/tokenizer\.json is not a tokenizer: ") as raised:
        Tokenizer.from_json(data, "dir/tokenizer.json")
    assert raised.value.hint.endswith("get the model again.")


@pytest.mark.parametrize(
    ("decoder", "found"), [(None, "NoneType"), ({"type": "Fuse"}, "Fuse")], ids=["none", "fuse"]
)
def test_a_tokenizer_whose_ids_are_not_bytes_is_refused(decoder, found):
    with pytest.raises(UserError, match=f"found decoder {found}, need ByteLevel") as raised:
        Tokenizer.from_json(changed_file(decoder=decoder))
    assert "CodeGen checkpoint" in raised.value.hint
