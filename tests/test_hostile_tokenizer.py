"""A tokenizer.json is a plain byte-level BPE, or is refused before the library could act on it."""

import json
from pathlib import Path

import pytest
from hostile import (
    DELETED,
    NASTY,
    OLD_TOKENIZER,
    TINY_TOKENIZER,
    examples,
    places,
    read_old_tokenizer,
    read_tokenizer,
    refused,
    replaced,
    write_old_tokenizer,
)
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizer import TOKENIZER, TOKENIZER_JSON

from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.tokenizer_file import judge_tokenizer
from quantize.files.errors import UserError


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def changed(path: str, value: object) -> bytes:
    return json.dumps(replaced(TINY_TOKENIZER, tuple(path.split(".")), value)).encode()


def added(**fields: object) -> bytes:
    token = {"id": 258, "content": "x", "single_word": False, "lstrip": False, "rstrip": False}
    token |= {"normalized": False, "special": False} | fields
    return changed("added_tokens", [token])


def test_the_tiny_tokenizer_works() -> None:
    tokenizer = Tokenizer.from_json(json.dumps(TINY_TOKENIZER).encode())
    assert tokenizer.encode("ab a\n") == [256, 32, 97, 10]
    assert tokenizer.encode("<|endoftext|>b", special_tokens=True) == [257, 98]


def test_the_published_file_passes_with_and_without_its_hash() -> None:
    judge_tokenizer(TOKENIZER_JSON, "tokenizer.json")
    copy = TOKENIZER_JSON + b"\n"
    assert Tokenizer.from_json(copy).encode("def f(x):\n    ") == TOKENIZER.encode(
        "def f(x):\n    "
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (changed("normalizer", {"type": "NFC"}), "found normalizer NFC, need none"),
        (
            changed("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "found normalizer Precompiled",
        ),
        (
            changed("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(a+)+$"}}),
            "found pre_tokenizer Split, need ByteLevel",
        ),
        (changed("pre_tokenizer", None), "found pre_tokenizer NoneType, need ByteLevel"),
        (changed("pre_tokenizer", {"type": ["ByteLevel"]}), "found pre_tokenizer dict"),
        (changed("decoder", {"type": "\x1b[2J"}), r"found decoder '\x1b[2J', need ByteLevel"),
        (
            changed("post_processor", {"type": "Sequence", "processors": []}),
            "found post_processor Sequence, need none or ByteLevel or TemplateProcessing",
        ),
        (changed("model.type", "Unigram"), "found model Unigram, need BPE"),
        (changed("model.dropout", 0.5), "its model has dropout 0.5, need None or 0"),
        (
            changed("model.continuing_subword_prefix", "##"),
            "its model has continuing_subword_prefix '##'",
        ),
        (changed("model.end_of_word_suffix", "</w>"), "its model has end_of_word_suffix '</w>'"),
        (changed("model.byte_fallback", True), "its model has byte_fallback True"),
        (
            json.dumps(
                TINY_TOKENIZER | {"model": TINY_TOKENIZER["model"] | {"cache_capacity": 1 << 60}}
            ).encode(),
            "its model has the field 'cache_capacity', which CodeGen's lacks",
        ),
    ],
)
def test_another_kind_of_tokenizer_is_refused(data: bytes, problem: str) -> None:
    error = refused(lambda: Tokenizer.from_json(data, "m/tokenizer.json"))
    assert error
    assert error.message.startswith(f"m/tokenizer.json: {problem}")
    assert "a CodeGen or GPT-J checkpoint" in error.hint


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (changed("model", None), "its model is None"),
        (changed("model.vocab", ["a"]), "its vocab is ['a']"),
        (changed("model.vocab", {"a": -1}), "its token 'a' has id -1, need a whole number from 0"),
        (changed("model.vocab", {"a": 1 << 22}), "its token 'a' has id 4194304, need"),
        (changed("model.vocab", {"a": True}), "its token 'a' has id True, need"),
        (changed("model.vocab", {"a": 0, "b": 0}), "two tokens of its vocab have one id"),
        (changed("model.unk_token", "<unk>"), "its unk_token '<unk>' is not in its vocab"),
        (changed("model.merges", ["a  c"]), ""),
        (changed("model.merges", 5), ""),
        (changed("added_tokens", {}), "its added_tokens are {}"),
        (changed("added_tokens", ["x"]), "it has the added token 'x'"),
        (added(content=""), "it has the added token {"),
        (added(id=(1 << 32) - 1), "its token 'x' has id 4294967295, need"),
        (added(id=None), "its token 'x' has id None, need"),
    ],
)
def test_a_vocabulary_that_makes_no_sense_is_refused(data: bytes, problem: str) -> None:
    error = refused(lambda: Tokenizer.from_json(data, "m/tokenizer.json"))
    assert error
    assert error.message.startswith(f"m/tokenizer.json is not a tokenizer: {problem}")
    assert "get the model again" in error.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("padding", {"strategy": {"Fixed": 1 << 60}, "pad_to_multiple_of": 1 << 60}),
        ("padding", {"strategy": "BatchLongest", "pad_to_multiple_of": 0}),
        ("truncation", {"max_length": 0, "stride": 1 << 60, "strategy": "LongestFirst"}),
    ],
)
def test_no_padding_or_truncation_is_obeyed(name: str, value: dict[str, object]) -> None:
    if name == "padding":
        value = value | {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    else:
        value = value | {"direction": "Right"}
    tokenizer = Tokenizer.from_json(changed(name, value))
    assert tokenizer.encode("ab") == [256]


def test_an_unknown_token_of_no_text_is_none() -> None:
    vocab = {"a": 0, "b": 1, "ab": 2}
    data = changed("model", {"unk_token": "", "vocab": vocab, "merges": ["a b"]})
    fields = json.loads(data) | {"added_tokens": []}
    tokenizer = Tokenizer.from_json(json.dumps(fields).encode())
    assert tokenizer.encode("abab") == [2, 2]
    assert refused(lambda: tokenizer.encode("ab?"))


def test_an_end_of_text_above_every_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="need a whole number from 0 to 4194303"):
        Tokenizer.from_json(added(content="<|endoftext|>", id=1 << 40))


def test_a_long_word_is_encoded_to_its_end() -> None:
    tokenizer = Tokenizer.from_json(json.dumps(TINY_TOKENIZER).encode())
    assert tokenizer.encode("ab" * 100_000) == [256] * 100_000


EDITS = st.lists(
    st.tuples(st.integers(0), st.sampled_from(NASTY) | st.just(DELETED)), min_size=1, max_size=3
)


@examples(500)
@given(edits=EDITS)
def test_a_tokenizer_may_say_anything(edits: list[tuple[int, object]]) -> None:
    value: object = TINY_TOKENIZER
    for number, new in edits:
        found = places(value)[1:]
        value = replaced(value, found[number % len(found)], new) if found else value
    data = json.dumps(value).encode("utf-8", "surrogatepass")
    refused(lambda: read_tokenizer(data))


TEMPLATE_PARTS = st.lists(
    st.sampled_from(
        [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1 << 31}},
            {"SpecialToken": {"id": "x", "type_id": 0}},
            {"SpecialToken": {"id": "y", "type_id": 0}},
        ]
    ),
    max_size=4,
)


@examples(100)
@given(single=TEMPLATE_PARTS, pair=TEMPLATE_PARTS, ids=st.lists(st.integers(0, 1 << 32)))
def test_a_template_may_say_anything(single: object, pair: object, ids: list[int]) -> None:
    tokens = {"x": {"id": "x", "ids": ids, "tokens": ["x"] * len(ids)}}
    template = {"type": "TemplateProcessing", "single": single, "pair": pair}
    data = changed("post_processor", template | {"special_tokens": tokens})
    refused(lambda: read_tokenizer(data))


@examples(200)
@given(
    name=st.sampled_from(list(OLD_TOKENIZER)),
    edits=EDITS,
    absent=st.sets(st.sampled_from(list(OLD_TOKENIZER))),
)
def test_the_older_files_may_say_anything(
    scratch: Path, name: str, edits: list[tuple[int, object]], absent: set[str]
) -> None:
    files = {key: value for key, value in OLD_TOKENIZER.items() if key not in absent}
    for number, new in edits:
        if name in files and (found := places(files[name])):
            files[name] = replaced(files[name], found[number % len(found)], new)
    files = {key: value for key, value in files.items() if value is not DELETED}
    write_old_tokenizer(scratch, files)
    refused(lambda: read_old_tokenizer(scratch))


@examples(200)
@given(text=st.text("ab \n\r#\0Ġ\u2028version", max_size=40))
def test_merges_may_say_anything(scratch: Path, text: str) -> None:
    write_old_tokenizer(scratch, OLD_TOKENIZER | {"merges.txt": text})
    refused(lambda: read_old_tokenizer(scratch))


def test_the_older_files_as_they_should_be_are_read(scratch: Path) -> None:
    write_old_tokenizer(scratch, OLD_TOKENIZER)
    read_old_tokenizer(scratch)
    write_old_tokenizer(scratch, OLD_TOKENIZER | {"merges.txt": "\n" * ((1 << 19) + 1)})
    error = refused(lambda: read_old_tokenizer(scratch))
    assert error
    assert "merges.txt has more than 524288 lines" in error.message
