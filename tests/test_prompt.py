"""What is kept of a prompt: all that fits, from a line start, however long it is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizer import TOKENIZER, TOKENIZER_JSON

from codegen_cli.commands.prompt_input import check_argument, decode_input
from codegen_cli.text.prompt import fit_prompt
from codegen_cli.text.text_side import Prompt
from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.tokenizer_options import TokenizerOptions
from quantize.files.errors import UserError

SOURCE = Path(__file__).read_text(encoding="utf-8")


def kept_ids(n_positions, max_tokens):
    return max(n_positions - max_tokens, n_positions // 2)


def fit(text, n_positions=64, max_tokens=16):
    return fit_prompt(text, TOKENIZER, n_positions=n_positions, max_tokens=max_tokens)


@given(st.text(min_size=1, max_size=40))
def test_a_prompt_that_fits_is_kept_whole(text):
    fitted = fit(text, n_positions=400)
    assert fitted.ids == TOKENIZER.encode(text)
    assert (fitted.n_dropped_characters, fitted.first_line) == (0, 1)


@pytest.mark.parametrize("spare", [0, -1])
def test_the_limit_is_reached_exactly(spare):
    text = "a\n" * 24  # two ids a line
    fitted = fit(text, n_positions=64, max_tokens=16 - spare)
    assert len(fitted.ids) == 48 + 2 * spare
    assert fitted.first_line == 1 - spare


@pytest.mark.parametrize(("max_tokens", "limit"), [(16, 48), (32, 32), (33, 32), (1000, 32)])
def test_room_for_max_tokens_is_left_but_half_the_context_is_kept(max_tokens, limit):
    assert len(fit("a\n" * 1000, 64, max_tokens).ids) == limit


@given(
    st.lists(st.sampled_from(SOURCE.splitlines(keepends=True)), min_size=1, max_size=60),
    st.sampled_from([(128, 16), (256, 200)]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_long_prompt_keeps_the_most_lines_that_fit(lines, sizes, line_end):
    text = "".join(lines).replace("\n", line_end)
    limit = kept_ids(*sizes)
    starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]
    fitting = [start for start in starts if 0 < len(TOKENIZER.encode(text[start:])) <= limit]
    fitted = fit(text, *sizes)
    if fitting and text[fitting[0] :].strip():
        start = fitting[0]
        assert fitted.n_dropped_characters == start
        assert fitted.ids == TOKENIZER.encode(text[start:])
        assert text.splitlines()[fitted.first_line - 1 :] == text[start:].splitlines()


@given(st.text(alphabet="a b\n\t日😀(", min_size=1, max_size=300))
def test_what_is_kept_of_any_text_fits_and_ends_as_the_text_does(text):
    fitted = fit(text, n_positions=16, max_tokens=4)
    kept = text[fitted.n_dropped_characters :]
    assert 0 < len(fitted.ids) <= 12
    assert TOKENIZER.decode(fitted.ids) == kept
    assert fitted.first_line == text.count("\n", 0, fitted.n_dropped_characters) + 1


def test_a_line_start_inside_a_token_is_passed_over_when_its_rest_takes_more_ids():
    fields = json.loads(TOKENIZER_JSON) | {"added_tokens": []}
    newline, two, four = "Ċ", "ĊĊ", "ĊĊĊĊ"
    vocab = [newline, two, four, "x", "y"]
    merges = [f"{newline} {newline}", f"{two} {two}"]
    fields["model"] |= {"vocab": {token: i for i, token in enumerate(vocab)}, "merges": merges}
    tokenizer = Tokenizer.from_json(json.dumps(fields).encode())
    assert len(tokenizer.encode("\n\n\n\n\ny")) == 3
    assert len(tokenizer.encode("\n\n\n\ny")) == 4
    fitted = fit_prompt("xxx\n\n\n\n\ny", tokenizer, n_positions=4, max_tokens=1)
    assert tokenizer.decode(fitted.ids) == "\n\n\ny"
    assert (fitted.n_dropped_characters, fitted.first_line) == (5, 3)


def test_a_last_line_that_is_too_long_is_cut_at_a_token():
    words = " word" * 1000
    fitted = fit("x = 1\n" + words)
    assert fitted.ids == TOKENIZER.encode(" word") * 48
    assert fitted.n_dropped_characters == len("x = 1\n" + words) - len(" word" * 48)
    assert fitted.first_line == 2


def test_a_final_newline_alone_is_not_kept_for_being_a_line_start():
    assert len(fit(" word" * 1000 + "\n\n").ids) == 48


def test_a_cut_at_a_token_does_not_split_a_character():
    fitted = fit("日本語" * 100, n_positions=64, max_tokens=19)
    assert 40 < len(fitted.ids) <= 45
    assert TOKENIZER.decode(fitted.ids) in "日本語" * 100


@pytest.mark.parametrize("unit", ["x = 1\n", " ", "\n", "日", "-" * 64, "0x00, "])
def test_only_the_tail_of_a_long_text_is_encoded(unit, monkeypatch):
    text = unit * (3_000_000 // len(unit))
    encoded = []
    encode_with_starts = TOKENIZER.encode_with_starts
    monkeypatch.setattr(
        TOKENIZER,
        "encode_with_starts",
        lambda tail, **reading: encoded.append(len(tail)) or encode_with_starts(tail, **reading),
    )
    fitted = fit(text, n_positions=2048, max_tokens=128)
    assert 1900 < len(fitted.ids) <= 1920
    # The longest token has 128 characters, and 2 * 1920 ids suffice.
    assert sum(encoded) <= 4 * 128 * 1920
    assert text.endswith(TOKENIZER.decode(fitted.ids))


def test_a_prompt_of_blanks_that_end_the_text_is_kept():
    assert fit("\n\n\n").ids == TOKENIZER.encode("\n\n\n")


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match=r"^the prompt is empty") as raised:
        fit("")
    assert raised.value.hint == "Give the beginning of the code to complete."


@pytest.mark.parametrize("text", ["", "\ufeffa\r\nb\rc", "no final newline", "\x1b[0m\x7f", "日😀"])
def test_input_is_decoded_with_every_character_kept(text):
    assert decode_input(text.encode(), "stdin") == text


@pytest.mark.parametrize(
    ("data", "byte", "offset"),
    [
        (b"ab\xffcd", "0xFF", 2),
        ("日é".encode()[:-1], "0xC3", 3),
        (b"ab\xed\xa0\x80", "0xED", 2),
        (b"\x7fELF\x02\x01\x01\x00\x00", "0x00", 7),
        (b"a\x00b\xff", "0x00", 1),
        (b"a\xffb\x00", "0xFF", 1),
    ],
)
def test_input_that_is_no_text_is_named_with_its_first_bad_byte(data, byte, offset):
    with pytest.raises(UserError) as raised:
        decode_input(data, "dir/f.py")
    assert raised.value.message == (
        f"dir/f.py is not UTF-8 text: found byte {byte} at offset {offset}"
    )
    assert raised.value.hint == "Give text in UTF-8; a binary file cannot be completed."


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf_16_is_named_as_such(codec):
    data = "\ufeffdef f".encode(codec)
    with pytest.raises(UserError) as raised:
        decode_input(data, "stdin")
    assert raised.value.hint == "Convert it from UTF-16 to UTF-8."


def test_an_argument_of_invalid_utf8_is_named_with_its_byte():
    argument = b"def f\xff".decode("utf-8", "surrogateescape")
    with pytest.raises(UserError) as raised:
        check_argument(argument, "PROMPT")
    assert raised.value.message == "PROMPT is not UTF-8 text: found byte 0xFF after 'def f'"
    assert raised.value.hint == "Give the text in UTF-8."


def test_an_argument_of_text_passes_unchanged():
    assert check_argument("日 \r\n", "PROMPT") == "日 \r\n"


def test_end_of_text_in_a_prompt_is_text_unless_asked_for():
    text = "<|endoftext|>def f"
    room = {"n_positions": 64, "max_tokens": 16}
    assert fit_prompt(text, TOKENIZER, **room).ids == TOKENIZER.encode(text)
    assert fit_prompt(text, TOKENIZER, special_tokens=True, **room).ids == [50256, 4299, 277]


def test_the_last_document_begins_after_an_end_mark_and_not_after_its_text():
    text = "a<|endoftext|>b<|endoftext|>c"
    assert Prompt(text, 1, True).document == "c"
    assert Prompt("a", 1, True).document == "a"
    assert Prompt("a<|endoftext|>", 1, True).document == ""
    assert Prompt(text, 1).document == text


def test_the_cut_of_a_long_prompt_reads_special_tokens_as_asked():
    text = "x = 1\n" * 100 + "<|endoftext|>" * 20
    room = {"n_positions": 64, "max_tokens": 16}
    as_text = fit_prompt(text, TOKENIZER, **room)
    assert (len(as_text.ids), 50256 in as_text.ids) == (48, False)
    assert fit_prompt(text, TOKENIZER, special_tokens=True, **room).ids[-20:] == [50256] * 20


@pytest.mark.parametrize("text", ["def f", "x = 1\n" * 100, " word" * 100])
def test_bos_stands_before_what_is_kept_and_counts(text):
    tokenizer = Tokenizer.from_json(
        TOKENIZER_JSON, options=TokenizerOptions(add_bos_token=True, bos_token="!")
    )
    fitted = fit_prompt(text, tokenizer, n_positions=64, max_tokens=16)
    assert fitted.ids[0] == 0
    assert len(fitted.ids) <= 48
    assert fitted.ids[1:] == TOKENIZER.encode(text[fitted.n_dropped_characters :])


def test_a_lone_surrogate_anywhere_in_a_prompt_is_named():
    with pytest.raises(UserError, match=r"^the prompt is not Unicode text.* at character 1"):
        fit("a\udc80" + "x = 1\n" * 100_000)
