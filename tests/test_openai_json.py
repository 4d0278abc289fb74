"""The --json object, field by field."""

import json
from typing import get_args

import pytest

from codegen_cli.decoding.summary import EndReason, FinishReason, Summary
from codegen_cli.reports.openai_json import completion_object


def test_the_object_has_the_shape_of_openais_text_completion():
    summary = Summary(
        end_reason="time",
        seed=2**64 - 1,
        prompt_tokens=8,
        completion_tokens=5,
        drafted_tokens=7,
        accepted_tokens=3,
        prefill_seconds=0.5,
        decode_seconds=2.0,
    )
    made = completion_object(
        hex_id="00ff",
        created=1_700_000_000,
        model="nano",
        text="\n  é",
        summary=summary,
        load_seconds=0.25,
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
            "completion_tokens_details": {
                "accepted_prediction_tokens": 3,
                "rejected_prediction_tokens": 4,
            },
        },
        "seed": 2**64 - 1,
        "timings": {
            "load_seconds": 0.25,
            "prefill_seconds": 0.5,
            "prefill_tokens_per_second": 16.0,
            "decode_seconds": 2.0,
            "decode_tokens_per_second": 2.0,
        },
    }


# Of openai.types.completion_choice.CompletionChoice, which refuses all other words.
OPENAI_WORDS = ("stop", "length", "content_filter")


@pytest.mark.parametrize("end_reason", get_args(EndReason))
def test_a_finish_reason_is_a_word_of_openais(end_reason):
    finish_reason = Summary(end_reason=end_reason, seed=1).finish_reason
    assert finish_reason in OPENAI_WORDS
    assert finish_reason in get_args(FinishReason)
    assert (finish_reason == "stop") == (end_reason == "stop")
