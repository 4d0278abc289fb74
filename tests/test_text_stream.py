"""Streamed pieces joined equal the text of all ids, and no piece holds part of a character."""

from itertools import product

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizer import TOKENIZER, TOKENIZER_JSON, VOCAB_SIZE

from codegen_cli.text.text_stream import TextStream

LIBRARY = tokenizers.Tokenizer.from_str(TOKENIZER_JSON.decode())

# The single-byte tokens, by their byte.
ID_OF_BYTE = {TOKENIZER.token_bytes(i)[0]: i for i in range(256)}

# One byte of each kind that UTF-8 tells apart, in each range where its rules change.
TELLING_BYTES = [
    *(0x00, 0x41, 0x7F),
    *(0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF),
    *(0xC0, 0xC1, 0xC2, 0xDF),
    *(0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF),
    *(0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF),
]


def decoded(ids):
    """The text of all ids, which the tokenizers library finds as well."""
    text = TOKENIZER.decode(ids)
    assert text == LIBRARY.decode(ids, skip_special_tokens=False)
    return text


def stream(ids):
    text_stream = TextStream(TOKENIZER.token_bytes)
    return [*(text_stream.feed(token_id) for token_id in ids), text_stream.finish()]


@pytest.mark.parametrize(
    "text",
    [
        "héllo ✓ 日本語",
        "😀👩‍👩‍👧 e\u0301",
        "\tif x:\r\n\t\treturn\r\n",
        " ",
        "\n \n  \n",
        "\ufeffx",
        "a\ufffdb\ufffd",
        "\0\x1b[31m",
        "",
    ],
)
def test_pieces_of_a_text_join_to_it_without_replacements(text):
    pieces = stream(TOKENIZER.encode(text))
    assert "".join(pieces) == text
    assert pieces[-1] == ""


def test_a_character_of_several_ids_appears_with_its_last():
    assert stream([33768, 98, 17312, 105]) == ["", "日", "", "本", ""]


def test_a_replacement_character_in_the_text_is_not_held_back():
    ids = TOKENIZER.encode("\ufffd")
    assert stream(ids)[-2:] == ["\ufffd", ""]


@given(st.lists(st.integers(0, VOCAB_SIZE - 1)))
def test_pieces_of_any_ids_join_to_what_decode_gives(ids):
    assert "".join(stream(ids)) == decoded(ids)


@given(st.lists(st.sampled_from(list(ID_OF_BYTE.values())), max_size=12))
def test_pieces_of_any_bytes_join_to_what_decode_gives(ids):
    assert "".join(stream(ids)) == decoded(ids)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_invalid_bytes_of_every_kind_become_what_decode_gives(length):
    for sequence in product(TELLING_BYTES, repeat=length):
        ids = [ID_OF_BYTE[byte] for byte in sequence]
        assert "".join(stream(ids)) == decoded(ids), bytes(sequence)


@given(st.text(alphabet="aé日😀", min_size=1), st.integers(1, 3))
def test_a_text_cut_inside_a_character_ends_as_decode_gives(text, n_cut):
    ids = [ID_OF_BYTE[byte] for byte in text.encode()[:-n_cut]]
    assert "".join(stream(ids)) == decoded(ids)


@given(st.text())
def test_only_an_unfinished_character_is_held_back(text):
    text_stream = TextStream(TOKENIZER.token_bytes)
    shown, given_bytes = "", b""
    for token_id in TOKENIZER.encode(text):
        shown += text_stream.feed(token_id)
        given_bytes += TOKENIZER.token_bytes(token_id)
        assert shown == given_bytes.decode(errors="ignore")
