"""Finished completions -> the objects that JSON has of them, in the shape of OpenAI's completions.

https://platform.openai.com/docs/api-reference/completions/object
"""

import math
from collections.abc import Sequence

from codegen_cli.decoding.sampled_tokens import SampledToken, mean_log_probability
from codegen_cli.decoding.summary import Summary

_DECIMALS = 6  # float32 logits tell no more
_DROPPED = "prompt_characters_dropped"


def completion_object(
    *,
    id: str | int,
    created: int,
    model: str,
    choices: Sequence[dict[str, object]],
    usage: dict[str, object],
    seed: int,
) -> dict[str, object]:
    """Return one `text_completion` object, ready for JSON; `seed` is an addition to OpenAI's shape.

    created  Unix time
    """
    return {
        "id": id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage,
        "seed": seed,
    }


def choice_object(
    index: int,
    text: str,
    summary: Summary,
    *,
    prompt: str = "",
    tokens: Sequence[SampledToken] | None = None,
) -> dict[str, object]:
    """Return one of the choices; `end_reason` and `mean_logprob` are additions to OpenAI's shape.

    prompt  what the text is given after
    tokens  of the text, where it was asked how likely they are: those of all its Pieces
    """
    choice: dict[str, object] = {
        "text": prompt + text,
        "index": index,
        "finish_reason": summary.finish_reason,
        "end_reason": summary.end_reason,
        "logprobs": None,
    }
    if tokens is not None:
        choice["logprobs"] = logprobs_object(tokens, n_before=len(prompt))
        choice["mean_logprob"] = _rounded(mean_log_probability(tokens))
    return choice


def logprobs_object(tokens: Sequence[SampledToken], *, n_before: int = 0) -> dict[str, object]:
    """Return the log-probabilities of a text's tokens, to 6 decimals.

    n_before  characters that the choice's text has before them, and text_offset counts

    As in OpenAI's, top_logprobs has the token itself beside the likeliest if it is none of them. Of
    tokens that read alike, it has the likelier one, but the token itself in any case.
    """
    return {
        "tokens": [_spelled(token.content) for token in tokens],
        "token_logprobs": [_rounded(token.log_probability) for token in tokens],
        "top_logprobs": [_top_logprobs(token) for token in tokens],
        "text_offset": [n_before + token.offset for token in tokens],
    }


def usage_object(
    summaries: Sequence[Summary], n_samples: int = 1, *, has_details: bool = True
) -> dict[str, object]:
    """Return the token counts of completions: n_samples of one prompt, then all of the next.

    A prompt counts once, as its first sample found it. Details depend on how fast steps were, and
    on what ran beside. Where a prompt was too long, `prompt_characters_dropped` tells how much of
    it was cut, an addition to OpenAI's shape.
    """
    prompts = summaries[::n_samples]
    n_prompt = sum(each.prompt_tokens for each in prompts)
    n_completion = sum(each.completion_tokens for each in summaries)
    usage: dict[str, object] = {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }
    if n_dropped := sum(each.dropped_characters for each in prompts):
        usage[_DROPPED] = n_dropped
    if has_details:
        n_accepted = sum(each.accepted_tokens for each in summaries)
        n_drafted = sum(each.drafted_tokens for each in summaries)
        n_cached = sum(each.cached_tokens for each in prompts)
        usage["prompt_tokens_details"] = {"cached_tokens": n_cached}
        usage["completion_tokens_details"] = {
            "accepted_prediction_tokens": n_accepted,
            "rejected_prediction_tokens": n_drafted - n_accepted,
        }
    return usage


def tells_of_dropped(completion: object) -> bool:
    """Tell whether a completion, as JSON has it, says that a prompt was cut."""
    usage = completion.get("usage") if isinstance(completion, dict) else None
    return isinstance(usage, dict) and _DROPPED in usage


def _top_logprobs(token: SampledToken) -> dict[str, float | None]:
    top: dict[str, float | None] = {}
    for each in token.likeliest:
        top.setdefault(_spelled(each.content), _rounded(each.log_probability))
    top[_spelled(token.content)] = _rounded(token.log_probability)
    return top


def _spelled(content: bytes) -> str:
    """Return a token as text, or as OpenAI writes one that is no text: bytes:\\xe6\\x97."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _rounded(value: float | None) -> float | None:
    """Return a number for JSON, which has no NaN; a minus before 0 would tell nothing."""
    if value is None or not math.isfinite(value):
        return None
    return round(value, _DECIMALS) + 0.0
