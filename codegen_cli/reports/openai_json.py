"""A finished completion -> the object that --json prints, in the shape of OpenAI's completions."""

from codegen_cli.decoding.summary import Summary


def completion_object(
    *,
    hex_id: str,
    created: int,
    model: str,
    text: str,
    summary: Summary,
    load_seconds: float,
) -> dict[str, object]:
    """Return one `text_completion` object, ready for JSON.

    hex_id and created are unique to the run: random hexadecimal digits, and time.time() as an int.
    The shape is https://platform.openai.com/docs/api-reference/completions/object; `end_reason`,
    `seed` and `timings` are additions. logprobs are not computed.
    """
    return {
        "id": f"cmpl-{hex_id}",
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "text": text,
                "index": 0,
                "finish_reason": summary.finish_reason,
                "end_reason": summary.end_reason,
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": summary.prompt_tokens,
            "completion_tokens": summary.completion_tokens,
            "total_tokens": summary.prompt_tokens + summary.completion_tokens,
            "completion_tokens_details": {
                "accepted_prediction_tokens": summary.accepted_tokens,
                "rejected_prediction_tokens": summary.drafted_tokens - summary.accepted_tokens,
            },
        },
        "seed": summary.seed,
        "timings": {
            "load_seconds": load_seconds,
            "prefill_seconds": summary.prefill_seconds,
            "prefill_tokens_per_second": summary.prefill_tokens_per_second,
            "decode_seconds": summary.decode_seconds,
            "decode_tokens_per_second": summary.decode_tokens_per_second,
        },
    }
