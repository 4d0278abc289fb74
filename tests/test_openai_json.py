"""The --json object, field by field."""

import json
import math
from typing import get_args

import pytest

from codegen_cli.decoding.sampled_tokens import LikelyToken, SampledToken
from codegen_cli.decoding.summary import EndReason, FinishReason, Summary
from codegen_cli.reports.openai_json import (
    choice_object,
    completion_object,
    logprobs_object,
    usage_object,
)

SUMMARY = Summary(
    end_reason="time",
    seed=2**64 - 1,
    prompt_tokens=8,
    completion_tokens=5,
    drafted_tokens=7,
    accepted_tokens=3,
    prefill_seconds=0.5,
    decode_seconds=2.0,
)


def token(content, log_probability, offset, *likeliest):
    others = (LikelyToken(i, *each) for i, each in enumerate(likeliest))
    return SampledToken(99, content, log_probability, tuple(others), offset)


def test_the_object_has_the_shape_of_openais_text_completion():
    made = completion_object(
        id="cmpl-00ff",
        created=1_700_000_000,
        model="nano",
        choices=[choice_object(0, "\n  é", SUMMARY)],
        usage=usage_object([SUMMARY]),
        seed=SUMMARY.seed,
    )
    assert json.loads(json.dumps(made)) == {
        "id": "cmpl-00ff",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "nano",
        "choices": [
            {
                "text": "\n  é",
                "index": 0,
                "finish_reason": "length",
                "end_reason": "time",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 8,
            "completion_tokens": 5,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "accepted_prediction_tokens": 3,
                "rejected_prediction_tokens": 4,
            },
        },
        "seed": 2**64 - 1,
    }


def test_log_probabilities_have_the_shape_of_openais():
    tokens = [
        token(b" x", -0.25, 0, (b" x", -0.25), (b" y", -1.75)),
        token(b"\xe6\x97", -3.00000049, 2, (b"\n", -1e-9), (b"\xff", -9.0)),
    ]
    assert logprobs_object(tokens) == {
        "tokens": [" x", "bytes:\\xe6\\x97"],
        "token_logprobs": [-0.25, -3.0],
        "top_logprobs": [
            {" x": -0.25, " y": -1.75},
            {"\n": 0.0, "bytes:\\xff": -9.0, "bytes:\\xe6\\x97": -3.0},
        ],
        "text_offset": [0, 2],
    }
    assert "-0.0" not in json.dumps(logprobs_object(tokens)["top_logprobs"][1]["\n"])


def test_of_tokens_that_read_alike_the_likelier_is_given_and_the_sampled_one_in_any_case():
    alike = ((b"  ", -1.0), (b"  ", -4.0), (b"a", -5.0))
    [top] = logprobs_object([token(b"b", -7.0, 0, *alike)])["top_logprobs"]
    assert top == {"  ": -1.0, "a": -5.0, "b": -7.0}
    [top] = logprobs_object([token(b"  ", -4.0, 0, *alike)])["top_logprobs"]
    assert top == {"  ": -4.0, "a": -5.0}


def test_after_a_prompt_offsets_count_from_its_start():
    tokens = [token(b"x", -0.5, 0), token(b" y", -1.0, 1)]
    choice = choice_object(3, "x y", SUMMARY, prompt="é = ", tokens=tokens)
    assert choice["text"] == "é = x y"
    assert choice["index"] == 3
    assert choice["logprobs"]["text_offset"] == [4, 5]
    assert choice["mean_logprob"] == -0.75


def test_what_is_no_number_is_null():
    choice = choice_object(0, "x", SUMMARY, tokens=[token(b"x", math.nan, 0)])
    assert choice["logprobs"]["token_logprobs"] == [None]
    assert choice["mean_logprob"] is None
    assert choice_object(0, "", SUMMARY, tokens=[])["mean_logprob"] is None


def test_a_prompt_of_several_samples_counts_once():
    other = Summary(end_reason="stop", seed=1, prompt_tokens=20, completion_tokens=1)
    usage = usage_object([SUMMARY, SUMMARY, other, other], 2)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (28, 12)
    assert usage["total_tokens"] == 40
    assert usage["completion_tokens_details"] == {
        "accepted_prediction_tokens": 6,
        "rejected_prediction_tokens": 8,
    }
    assert set(usage_object([SUMMARY], has_details=False)) == {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
    }


def test_what_was_cut_from_a_prompt_is_told_once_and_only_then():
    cut = Summary(end_reason="stop", seed=1, dropped_characters=30)
    assert usage_object([SUMMARY, SUMMARY, cut, cut], 2)["prompt_characters_dropped"] == 30
    assert "prompt_characters_dropped" not in usage_object([SUMMARY])


# Of openai.types.completion_choice.CompletionChoice, which refuses all other words.
OPENAI_WORDS = ("stop", "length", "content_filter")


@pytest.mark.parametrize("end_reason", get_args(EndReason))
def test_a_finish_reason_is_a_word_of_openais(end_reason):
    finish_reason = Summary(end_reason=end_reason, seed=1).finish_reason
    assert finish_reason in OPENAI_WORDS
    assert finish_reason in get_args(FinishReason)
    assert (finish_reason == "stop") == (end_reason == "stop")
