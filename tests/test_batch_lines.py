"""Lines of a batch's input: found, keyed, read as requests, answered; each bad one for itself."""

import hashlib
import json
import pickle
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_cli.batch.answer_line import completed, refused
from codegen_cli.batch.bad_line import BadLine
from codegen_cli.batch.line import keyed_lines
from codegen_cli.batch.line_keys import seed_of
from codegen_cli.batch.lines import LONGEST_BYTES, numbered_lines
from codegen_cli.batch.request_line import MOST_CHOICES, request_of
from codegen_cli.batch.settings import Settings
from codegen_cli.decoding.defaults import MOST_SAMPLES
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.session.sample import Sample

SETTINGS = Settings(model="350M-mono:int4", options={"max_tokens": 16, "until": "none"}, created=5)
URL = "/v1/completions"


def lines_of(*contents, seed=7):
    encoded = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in contents]
    return list(keyed_lines([b"\n".join(encoded)], seed))


def request(content, settings=SETTINGS):
    (line,) = lines_of(content)
    return request_of(line, settings)


def problem(content):
    with pytest.raises(BadLine) as caught:
        request(content)
    return caught.value


def openai(body=None, **fields):
    body = {"model": "350M-mono", "prompt": "def f("} | (body or {})
    return {"custom_id": "a", "method": "POST", "url": URL, "body": body} | fields


# --- lines ----------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_how_bytes_are_cut_changes_no_line(content, cuts):
    places = sorted({0, *cuts, len(content)})
    pieces = [content[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]
    assert list(numbered_lines(pieces)) == list(numbered_lines([content]))


def test_blank_lines_count_and_are_left_out():
    content = b"\xef\xbb\xbf{}\r\n\n \t\r\n  {1}\n\n{2}"
    assert list(numbered_lines([content])) == [(1, b"{}"), (4, b"{1}"), (6, b"{2}")]


def test_a_huge_line_is_an_error_and_not_kept():
    content = BytesIO(b"x" * (3 * LONGEST_BYTES) + b'\n{"prompt": "a"}\n')
    pieces = iter(lambda: content.read(1 << 20), b"")
    huge, fine = keyed_lines(pieces, 7)
    assert huge.content == b""
    assert (huge.number, huge.bad.code) == (1, "line_too_long")
    assert huge.bad.message == f"the line has more than {LONGEST_BYTES} bytes"
    assert fine.number == 2
    assert not fine.bad


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_the_hash_that_is_said():
    named, unnamed, again = lines_of({"id": "ä", "prompt": "x"}, b'{"prompt": 1}', b'{"prompt": 1}')
    for line, text in [
        (named, b'7 id "\\u00e4"'),
        (unnamed, b'7 line 0 {"prompt": 1}'),
        (again, b'7 line 1 {"prompt": 1}'),
    ]:
        digest = hashlib.sha256(text).digest()
        assert line.key == digest[:16].hex()
        assert seed_of(line.key) == int.from_bytes(digest) >> (256 - 53)


def test_a_line_with_an_id_keeps_its_key_wherever_it_stands_and_whatever_else_it_holds():
    (alone,) = lines_of({"id": 3, "prompt": "a"})
    *_, among = lines_of({"prompt": "x"}, {"id": "3", "prompt": "a"}, {"prompt": "b", "id": 3})
    assert among.key == alone.key
    assert lines_of({"id": 3, "prompt": "a"}, seed=8)[0].key != alone.key


def test_equal_lines_have_keys_of_their_own():
    assert len({line.key for line in lines_of(*[{"prompt": "a"}] * 5)}) == 5


@pytest.mark.parametrize("name", ["id", "custom_id"])
def test_an_id_may_be_given_once(name):
    first, again, third = lines_of(*[{name: "a" * 100, "prompt": "x"}] * 3)
    assert first.bad is None
    assert again.bad.code == f"duplicate_{name}"
    assert again.bad.message == f"{name} {json.dumps('a' * 100):.80} is an earlier line's"
    assert len({first.key, again.key, third.key}) == 3


def test_lines_and_settings_go_to_other_processes():
    for each in (SETTINGS, *lines_of({"prompt": "a"}), lines_of(b"x")[0]):
        copy = pickle.loads(pickle.dumps(each))
        if getattr(each, "bad", None):
            assert copy.bad.args == each.bad.args
        else:
            assert copy == each


# --- requests -------------------------------------------------------------------------------------


def test_a_line_goes_before_the_jobs_options_and_null_stands_for_those():
    asked = request({"prompt": "a", "max_tokens": 3, "until": None, "seed": 9, "stop": "x", "n": 2})
    assert asked.prompts == ("a",)
    assert asked.n == 2
    options = asked.options
    assert (options.max_tokens, options.until, options.seed) == (3, "none", 9)
    assert options.stop == ("x",)
    job = Settings(model="350M-mono", options={"n": 3, "logprobs": 1})
    assert request({"prompt": "a"}, job).n == 3
    assert request({"prompt": "a", "logprobs": 0, "n": 1}, job).options.logprobs == 0
    assert request({"prompt": "a", "logprobs": None, "n": 1}, job).options.logprobs == 1
    assert request({"prompt": "a"}).options.logprobs is None
    assert request({"prompt": "a"}).options.seed == seed_of(lines_of({"prompt": "a"})[0].key)


def test_an_openai_body_has_the_same_options():
    neutral = {"suffix": "", "best_of": 2, "presence_penalty": 0.0, "logit_bias": {}, "user": "me"}
    body = {"prompt": ["a", "b"], "n": 2, "top_k": 4, "stream": False, **neutral}
    asked = request(openai(body))
    assert asked.prompts == ("a", "b")
    assert asked.options.top_k == 4


@pytest.mark.parametrize("name", ["350M-mono", "350M-mono:int4", "Salesforce/codegen-350M-mono"])
def test_a_body_names_the_running_model(name):
    assert request(openai({"model": name})).prompts == ("def f(",)


@pytest.mark.parametrize("name", ["350M-multi", "350M-mono:int8", "350M-mono:int9", None, 3, ""])
def test_another_model_is_an_error(name):
    bad = problem(openai({"model": name}))
    assert bad.code == "mismatched_model"
    assert bad.message == f"model is {name!r}, but 350M-mono:int4 is running"


DEEP = b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
OPTION = "invalid_request"


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"hello", "invalid_json_line", "the line is not a valid JSON object: Expecting value"),
        (b"[1]", "invalid_json_line", "found [1], need an object"),
        (b'{"prompt": "\xff"}', "invalid_json_line", "can't decode byte 0xff"),
        (b'{"prompt": "a", "top_p": NaN}', "invalid_json_line", "NaN is not a JSON number"),
        (b'{"prompt": "a", "prompt": "b"}', "invalid_json_line", "'prompt' is given twice"),
        (DEEP, "invalid_json_line", "it is nested too deeply"),
        (b'{"prompt": %b}' % (b"9" * 5000), "invalid_json_line", "4300 digits"),
        ({}, OPTION, "prompt is None, need text, or a list of texts"),
        ({"prompt": ""}, OPTION, "the prompt is empty"),
        ({"prompt": []}, OPTION, "the prompt is empty"),
        ({"prompt": [1, 2]}, OPTION, "prompt is [1, 2], need text, or a list of texts"),
        ({"prompt": "\ud800"}, OPTION, "the prompt is not Unicode text: found the lone surrogate"),
        ({"prompt": "a", "max_token": 3}, OPTION, "unknown option 'max_token'"),
        ({"prompt": "a", "max_tokens": 0}, OPTION, "max_tokens is 0, need at least 1"),
        ({"prompt": "a", "max_tokens": "3"}, OPTION, "max_tokens is '3', need a whole number"),
        ({"prompt": "a", "top_p": True}, OPTION, "top_p is True, need a number"),
        ({"prompt": "a", "stop": [""]}, OPTION, "need texts that are not empty"),
        ({"prompt": "a", "until": "end"}, OPTION, "until is 'end', need 'function' or 'none'"),
        ({"prompt": "a", "seed": -1}, OPTION, "seed is -1, need 0 to 2**64 - 1"),
        ({"prompt": "a", "logprobs": 21}, OPTION, "logprobs is 21, need 0 to 20"),
        ({"prompt": "a", "logprobs": True}, OPTION, "logprobs is True, need a whole number"),
        ({"prompt": "a", "n": 999}, OPTION, f"n is 999, need 1 to {MOST_SAMPLES}"),
        (
            {"prompt": ["a"] * 99, "n": 99},
            OPTION,
            f"99 prompts times 99, need at most {MOST_CHOICES}",
        ),
        ({"prompt": "a", "echo": 1}, OPTION, "echo is 1, need true or false"),
        ({"prompt": "a", "id": 1.5}, OPTION, "id is 1.5, need text or a whole number"),
        ({"prompt": "a", "max_time": 3}, OPTION, "would depend on how fast a machine is"),
        ({"prompt": "a", "file": "x.py"}, OPTION, "file is no option of a line: a line has its"),
        (
            {"prompt": "a", "model": "nano"},
            OPTION,
            "model is no option of a line",
        ),
        (
            {"prompt": "a", "threads": 2},
            OPTION,
            "it holds for all lines: give it on the command line",
        ),
        (openai(custom_id=3), OPTION, "custom_id is 3, need text"),
        (openai(custom_id=None), OPTION, "custom_id is None, need text"),
        (openai(url="/v1/embeddings"), "invalid_url", "url is '/v1/embeddings', need '/v1/compl"),
        (openai(method="GET"), "invalid_method", "method is 'GET', need 'POST'"),
        (openai(prompt="x"), OPTION, "unknown field 'prompt' beside body"),
        (openai() | {"body": "x"}, OPTION, "body is 'x', need an object"),
        (openai({"stream": True}), OPTION, "stream is True, which codegen cannot do"),
        (openai({"presence_penalty": False}), OPTION, "presence_penalty is False, which codegen"),
        (openai({"best_of": 3}), OPTION, "best_of is 3, which codegen cannot do"),
        (openai({"max_time": 3}), OPTION, "would depend on how fast a machine is"),
    ],
)
def test_what_is_wrong_is_said(content, code, message):
    bad = problem(content)
    assert bad.code == code
    assert message in bad.message
    assert len(bad.message) < 600


# --- answers --------------------------------------------------------------------------------------


def ended(text, n_tokens, **changes):
    numbers = {"prompt_tokens": 3, "completion_tokens": n_tokens, "decode_seconds": 1.5}
    sample = Sample(GenerateOptions())
    sample.take(Piece(text, ()))
    sample.take(Summary(end_reason="stop", seed=9, **numbers | changes))
    return sample


def test_answers_to_plain_lines_are_completions_under_the_lines_own_id():
    named, unnamed = lines_of({"id": "é", "prompt": "p", "echo": True, "seed": 9}, {"prompt": "q"})
    answer = completed(named, request_of(named, SETTINGS), [ended("t", 4)], SETTINGS)
    assert (answer.place, answer.n_tokens, answer.is_error) == (0, 4, False)
    assert answer.content.endswith(b"}\n")
    assert json.loads(answer.content) == {
        "id": "é",
        "object": "text_completion",
        "created": 5,
        "model": "350M-mono:int4",
        "choices": [
            {
                "text": "pt",
                "index": 0,
                "finish_reason": "stop",
                "end_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "seed": 9,
    }
    answer = completed(unnamed, request_of(unnamed, SETTINGS), [ended("t", 4)], SETTINGS)
    assert json.loads(answer.content)["id"] == f"cmpl-{unnamed.key}"


def test_answers_to_openai_lines_have_their_shape():
    (line,) = lines_of(openai({"prompt": ["a", "b"], "n": 2}))
    samples = [ended(text, 2) for text in "wxyz"]
    answer = json.loads(completed(line, request_of(line, SETTINGS), samples, SETTINGS).content)
    assert list(answer) == ["id", "custom_id", "response", "error"]
    assert answer["id"] == f"batch_req_{line.key}"
    assert (answer["custom_id"], answer["error"]) == ("a", None)
    assert answer["response"]["status_code"] == 200
    body = answer["response"]["body"]
    assert [(each["index"], each["text"]) for each in body["choices"]] == list(enumerate("wxyz"))
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}
    assert body["id"] == f"cmpl-{line.key}"


def test_nothing_that_differs_between_runs_is_in_an_answer():
    (line,) = lines_of({"prompt": "p"})
    slow = ended("t", 4, decode_seconds=99.0, drafted_tokens=3, accepted_tokens=1)
    one, other = (
        completed(line, request_of(line, SETTINGS), [each], SETTINGS)
        for each in (ended("t", 4), slow)
    )
    assert one == other


@pytest.mark.parametrize("content", [{"id": 8, "prompt": 1}, {"prompt": 1}, openai(url=1), b"\xff"])
def test_an_error_has_the_shape_of_its_line(content):
    (line,) = lines_of(content)
    with pytest.raises(BadLine) as caught:
        request_of(line, SETTINGS)
    answer = refused(line, caught.value)
    assert answer.is_error
    fields = json.loads(answer.content)
    assert fields["error"] == {
        "code": caught.value.code,
        "message": caught.value.message,
        "line": 1,
    }
    if line.is_openai:
        assert (fields["custom_id"], fields["response"]) == ("a", None)
    else:
        assert fields["id"] == (f"cmpl-{line.key}" if line.id is None else 8)


def test_an_id_of_lone_surrogates_comes_back_as_it_was():
    (line,) = lines_of(b'{"id": "\\ud800", "prompt": ""}')
    assert refused(line, BadLine("a", "b")).content.startswith(b'{"id": "\\ud800", ')
