"""Ids of known texts, the round trip of any text, and files that are no tokenizer."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizer import END_OF_TEXT_ID, TOKENIZER, TOKENIZER_JSON, VOCAB_SIZE

from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.tokenizer_options import TokenizerOptions
from quantize.files.errors import UserError

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


# Any text, and text that is dense in what added tokens are made of.
TEXTS = st.text() | st.lists(
    st.sampled_from(["<|endoftext|>", "<|end", "oftext|>", "  ", "\t", "\n", "\r", "\0", "é日😀"])
).map("".join)


@given(TEXTS, st.booleans())
def test_decoding_the_ids_of_any_text_gives_the_text(text, special_tokens):
    assert TOKENIZER.decode(TOKENIZER.encode(text, special_tokens=special_tokens)) == text


def test_end_of_text_in_a_text_is_text_unless_special_tokens_are_asked_for():
    text = "<|endoftext|>def f"
    as_text = [27, 91, 437, 1659, 5239, 91, 29, 4299, 277]
    assert TOKENIZER.encode(text) == as_text
    assert TOKENIZER.encode(text, special_tokens=True) == [END_OF_TEXT_ID, 4299, 277]
    assert TOKENIZER.encode(text) == as_text
    starts = [0, 1, 2, 5, 7, 11, 12, 13, 16]
    assert TOKENIZER.encode_with_starts(text) == (as_text, starts)
    assert TOKENIZER.encode_with_starts(text, special_tokens=True)[1] == [0, 13, 16]


@given(TEXTS)
def test_no_text_holds_a_special_token(text):
    assert END_OF_TEXT_ID not in TOKENIZER.encode(text)


@given(st.text(alphabet=" \t\na", max_size=100))
def test_runs_of_blanks_are_added_tokens_in_both_readings(text):
    assert TOKENIZER.encode(text) == TOKENIZER.encode(text, special_tokens=True)


def test_threads_that_read_differently_do_not_disturb_each_other():
    text = "<|endoftext|>" * 6000  # long enough for the library to let other threads run

    def n_ids(special_tokens):
        return {len(TOKENIZER.encode(text, special_tokens=special_tokens)) for _ in range(5)}

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(n_ids, [True, False] * 2))
    assert found == [{6000}, {6000 * 6 + 1}] * 2


@pytest.mark.parametrize("special", [False, None], ids=["not special", "not added"])
def test_end_of_text_is_special_even_where_the_file_does_not_say_so(special):
    end_of_text, *others = json.loads(TOKENIZER_JSON)["added_tokens"]
    first = [] if special is None else [end_of_text | {"special": special}]
    tokenizer = Tokenizer.from_json(changed_file(added_tokens=[*first, *others]))
    assert tokenizer.encode("<|endoftext|>") == TOKENIZER.encode("<|endoftext|>")
    assert tokenizer.encode("<|endoftext|>", special_tokens=True) == [END_OF_TEXT_ID]
    assert tokenizer.vocab_size == 50295


@pytest.mark.parametrize(
    ("text", "found"), [("ab\ud800", "U+D800 at character 2"), ("\udcff", "U+DCFF at character 0")]
)
def test_a_lone_surrogate_is_named(text, found):
    with pytest.raises(UserError) as raised:
        TOKENIZER.encode(text)
    assert raised.value.message == f"the text is not Unicode text: found the lone surrogate {found}"
    assert raised.value.hint == "Give text that was decoded as strict UTF-8."


def test_a_byte_that_the_vocabulary_lacks_is_named_and_not_dropped():
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    tokenizer = Tokenizer.from_json(changed_file(model=model, added_tokens=[]))
    assert tokenizer.encode("abba") == [0, 1, 1, 0]
    with pytest.raises(UserError, match="the tokenizer has no token for byte 0x63"):
        tokenizer.encode("abcd")
    with pytest.raises(UserError, match="lone surrogate"):
        tokenizer.encode("\ud800")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens.pop(5), r"' +' has id 50262, need 50261"),
        (lambda tokens: tokens[-1].update(id=50400), r"'\\t\\t' has id 50400, need 50294"),
        (lambda tokens: tokens[0].update(id=7), r"'<\|endoftext\|>' has id 7, need 50256"),
        (lambda tokens: tokens.reverse(), r"'\\t\\t' has id 50294, need 50257"),
    ],
    ids=["a gap", "a leap", "another than the vocabulary's", "another order"],
)
def test_added_tokens_that_the_library_would_renumber_are_refused(change, message):
    tokens = json.loads(TOKENIZER_JSON)["added_tokens"]
    change(tokens)
    with pytest.raises(UserError, match=rf"^x\.json: the added token {message}") as raised:
        Tokenizer.from_json(changed_file(added_tokens=tokens), "x.json")
    assert "without gaps" in raised.value.hint


@pytest.mark.parametrize("vocab_size", [1000, 50257, 50294])
def test_a_model_with_fewer_rows_than_the_tokenizer_has_ids_is_refused(vocab_size):
    with pytest.raises(UserError) as raised:
        TOKENIZER.missing_ids(vocab_size)
    assert raised.value.message == (
        f"the tokenizer has ids up to 50294, need ids below vocab_size {vocab_size}"
    )
    assert "does not belong to this model" in raised.value.hint


def test_special_tokens_may_lie_beyond_a_models_rows():
    pad = {"id": 50295, "content": "<pad>", "special": True, "normalized": False}
    pad |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    for special in (True, False):
        tokens = [*json.loads(TOKENIZER_JSON)["added_tokens"], pad | {"special": special}]
        tokenizer = Tokenizer.from_json(changed_file(added_tokens=tokens))
        if special:
            assert tokenizer.missing_ids(50295) == []
        else:
            with pytest.raises(UserError, match="has ids up to 50295, need ids below"):
                tokenizer.missing_ids(50295)


@pytest.mark.parametrize("vocab_size", [50295, 50400])
def test_a_model_may_have_as_many_rows_as_the_tokenizer_has_ids_or_more(vocab_size):
    assert TOKENIZER.missing_ids(vocab_size) == list(range(50295, vocab_size))


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


def test_special_ids_of_a_config_end_a_text_and_ordinary_ones_do_not():
    """CodeGen2's eos_token_id is 2, the token `#`; 50286 is an added token, two blanks."""
    assert TOKENIZER.end_ids([]) == {END_OF_TEXT_ID}
    assert TOKENIZER.end_ids([2, 50286, 51199, END_OF_TEXT_ID]) == {END_OF_TEXT_ID}
    added = {"id": 50295, "content": "<|end|>", "special": True} | dict.fromkeys(
        ("single_word", "lstrip", "rstrip", "normalized"), False
    )
    tokens = [*json.loads(TOKENIZER_JSON)["added_tokens"], added]
    tokenizer = Tokenizer.from_json(changed_file(added_tokens=tokens))
    assert tokenizer.end_ids([2, 50295]) == {END_OF_TEXT_ID, 50295}
    assert tokenizer.end_ids([]) == {END_OF_TEXT_ID}


def test_missing_ids_are_those_that_no_token_has():
    assert TOKENIZER.vocab_size == 50295
    assert TOKENIZER.missing_ids(VOCAB_SIZE) == list(range(50295, 51200))


def test_a_hole_in_the_vocabulary_is_missing_too():
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 4}, "merges": []}
    tokenizer = Tokenizer.from_json(changed_file(model=model, added_tokens=[]))
    assert tokenizer.missing_ids(7) == [2, 3, 5, 6]


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


def template(*single: str, ids: tuple[object, ...] = (END_OF_TEXT_ID,)) -> bytes:
    """A file whose template has these pieces: A is the text, another is a special token."""
    pieces = [
        {"Sequence" if name == "A" else "SpecialToken": {"id": name, "type_id": 0}}
        for name in single
    ]
    names = {name for name in single if name != "A"}
    return changed_file(
        post_processor={
            "type": "TemplateProcessing",
            "single": pieces,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {
                name: {"id": name, "ids": ids, "tokens": [name] * len(ids)} for name in names
            },
        }
    )


@pytest.mark.parametrize(
    ("single", "first_ids"),
    [(["<s>", "A"], [50256]), (["A"], []), (["A", "<s>"], []), (["<s>", "A", "<s>"], [50256])],
)
def test_a_template_of_the_file_begins_a_text_and_does_not_end_it(single, first_ids):
    tokenizer = Tokenizer.from_json(template(*single))
    assert tokenizer.first_ids == first_ids
    assert tokenizer.encode("The dog") == [*first_ids, 464, 3290]
    assert tokenizer.encode("") == first_ids
    assert tokenizer.encode_with_starts("The dog") == ([464, 3290], [0, 3])


def test_an_option_overrules_the_template():
    options = TokenizerOptions(add_bos_token=False)
    assert Tokenizer.from_json(template("<s>", "A"), options=options).encode("a") == [64]
    options = TokenizerOptions(add_bos_token=True, bos_token="!")
    assert Tokenizer.from_json(template("<s>", "A"), options=options).encode("a") == [0, 64]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (template("<s>", "<s>", "A"), "its template begins with 2 tokens, need 1 at most"),
        (template("<s>", "A", ids=(-1,)), "its template's token has id -1, need a whole number"),
        (template("<s>", "A", ids=(1 << 22,)), "its template's token has id 4194304, need"),
        (template("<s>", "A", ids=("a",)), "its template's token has id 'a', need"),
        (template("<s>", "A").replace(b'"special_tokens"', b'"specials"'), "its template is "),
    ],
)
def test_a_template_that_makes_no_sense_is_refused(data, problem):
    with pytest.raises(UserError, match=problem) as raised:
        Tokenizer.from_json(data, "x.json")
    assert raised.value.message.startswith("x.json")


def _with_added(*contents: str) -> Tokenizer:
    tokens = json.loads(TOKENIZER_JSON)["added_tokens"]
    last = tokens[-1]
    tokens += [last | {"id": 50295 + i, "content": c} for i, c in enumerate(contents)]
    return Tokenizer.from_json(changed_file(added_tokens=tokens))


WITH_ADDED = _with_added("né", "~né")


@given(st.text(alphabet="né ~x", max_size=20))
def test_an_added_token_stands_for_the_text_that_it_reads(text):
    ids = WITH_ADDED.encode(text)
    assert WITH_ADDED.decode(ids) == text
    assert text.count("né") == ids.count(50295) + ids.count(50296)
    assert text.count("~né") == ids.count(50296)


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
    assert "a CodeGen or GPT-J checkpoint" in raised.value.hint
