"""The options of transformers' CodeGenTokenizer; the ids are those of transformers 5.23."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizer import TOKENIZER, TOKENIZER_JSON

from codegen_cli.text.text_stream import TextStream
from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.tokenizer_options import TokenizerOptions
from quantize.files.errors import UserError

TEXTS = ("def f(x):  y", " a", "", "x<|endoftext|>y!  z")
PLAIN = ([4299, 277, 7, 87, 2599, 50286, 88], [257], [], [87, 50256, 88, 0, 50286, 89])


def tokenizer_with(**options):
    return Tokenizer.from_json(TOKENIZER_JSON, options=TokenizerOptions(**options))


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({}, PLAIN),
        (
            {"add_prefix_space": True},
            (
                [825, 277, 7, 87, 2599, 50286, 331],
                [257],
                [],
                [2124, 50256, 331, 0, 50286, 1976],
            ),
        ),
        ({"add_prefix_space": False}, PLAIN),
        ({"add_bos_token": True}, tuple([50256, *ids] for ids in PLAIN)),
        ({"add_bos_token": True, "bos_token": "<s>"}, tuple([50295, *ids] for ids in PLAIN)),
        ({"pad_token": "<pad>"}, PLAIN),
        ({"pad_token": "!"}, PLAIN),
    ],
    ids=str,
)
def test_ids_are_those_of_transformers(options, ids):
    tokenizer = tokenizer_with(**options)
    assert tuple(tokenizer.encode(text, special_tokens=True) for text in TEXTS) == ids


def test_a_token_that_the_file_lacks_is_text_unless_asked_for_and_never_sampled():
    tokenizer = tokenizer_with(pad_token="<pad>")
    assert tokenizer.encode("a<pad>", special_tokens=True) == [64, 50295]
    assert tokenizer.encode("a<pad>") == TOKENIZER.encode("a<pad>") == [64, 27, 15636, 29]
    assert tokenizer.decode([64, 50295]) == "a<pad>"
    assert tokenizer.missing_ids(51200) == TOKENIZER.missing_ids(51200)
    assert tokenizer.missing_ids(50295) == []
    with pytest.raises(UserError, match="the tokenizer has ids up to 50294, need ids below"):
        tokenizer.missing_ids(50294)
    assert tokenizer_with(pad_token="!").missing_ids(50296) == [50295]


def test_options_of_one_tokenizer_are_not_those_of_the_next():
    tokenizer_with(add_prefix_space=True, pad_token="<pad>", add_bos_token=True)
    assert tuple(tokenizer_with().encode(text, special_tokens=True) for text in TEXTS) == PLAIN


@given(st.text())
def test_with_a_prefix_space_decoding_gives_spaces_more_and_nothing_less(text):
    tokenizer = WITH_PREFIX_SPACE
    decoded = tokenizer.decode(tokenizer.encode(text))
    assert decoded.replace(" ", "") == text.replace(" ", "")
    if text.isalnum():
        assert decoded == " " + text


WITH_PREFIX_SPACE = tokenizer_with(add_prefix_space=True)

HALF = [33768, 98, 17312]  # 日 and the first two bytes of 本
DECODED = {
    "replace": "日\ufffd",
    "ignore": "日",
    "backslashreplace": "日\\xe6\\x9c",
    "surrogateescape": "日\udce6\udc9c",
}


@pytest.mark.parametrize(("errors", "text"), DECODED.items())
def test_errors_say_what_becomes_of_bytes_that_are_no_text(errors, text):
    tokenizer = tokenizer_with(errors=errors)
    assert tokenizer.decode(HALF) == text
    stream = TextStream(tokenizer.token_bytes, tokenizer.options.errors)
    assert "".join(map(stream.feed, HALF)) + stream.finish() == text


def test_strict_errors_refuse_bytes_that_are_no_text():
    tokenizer = tokenizer_with(errors="strict")
    assert tokenizer.decode(TOKENIZER.encode("日本")) == "日本"
    message = r"^the ids are not UTF-8 text: found bytes e6 9c \(unexpected end of data\)"
    with pytest.raises(UserError, match=message) as raised:
        tokenizer.decode(HALF)
    assert "U+FFFD" in raised.value.hint
    stream = TextStream(tokenizer.token_bytes, tokenizer.options.errors)
    assert "".join(map(stream.feed, HALF)) == "日"
    with pytest.raises(UserError, match=message):
        stream.finish()


@given(st.binary(max_size=30))
def test_surrogateescape_keeps_every_byte(data):
    tokenizer = WITH_SURROGATES
    ids = [ID_OF_BYTE[byte] for byte in data]
    assert tokenizer.decode(ids).encode(errors="surrogateescape") == data


WITH_SURROGATES = tokenizer_with(errors="surrogateescape")
ID_OF_BYTE = {TOKENIZER.token_bytes(i)[0]: i for i in range(256)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"errors": "xmlcharrefreplace"}, "errors is 'xmlcharrefreplace', need one of replace, "),
        ({"pad_token": ""}, "pad_token is empty, need the text of a token"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(UserError, match=message):
        TokenizerOptions(**options)


def test_a_bos_token_that_the_vocabulary_lacks_is_named_when_it_is_the_default():
    data = TOKENIZER_JSON.replace(b"<|endoftext|>", b"<|elsewhere|>")
    assert Tokenizer.from_json(data).bos_id is None
    with pytest.raises(UserError, match=r"no '<\|endoftext\|>'") as raised:
        Tokenizer.from_json(data, options=TokenizerOptions(add_bos_token=True))
    assert "bos_token" in raised.value.hint
