"""What became of a line -> its answer, a line of JSON whose bytes say nothing of where it was made.

A line of OpenAI's batch format has OpenAI's output line around a completion; any other has the
completion itself, under the line's own id where it has one.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from codegen_cli.batch.bad_line import BadLine
from codegen_cli.batch.line import Line
from codegen_cli.batch.line_keys import LineId
from codegen_cli.batch.request_line import LineRequest
from codegen_cli.batch.settings import Settings
from codegen_cli.decoding.summary import Summary
from codegen_cli.reports.openai_json import (
    choice_object,
    completion_object,
    tells_of_dropped,
    usage_object,
)
from codegen_cli.session.sample import Sample


class Answer(NamedTuple):
    """The answer to a line.

    place     the line's
    content   the answer in JSON, with a line end
    n_tokens  sampled for it
    is_error  whether the line was bad
    is_cut    whether a prompt was too long, and cut
    """

    place: int
    content: bytes
    n_tokens: int = 0
    is_error: bool = False
    is_cut: bool = False


def answer_id(line: Line) -> LineId:
    """Return the id that a line's answer begins with."""
    if line.is_openai:
        return f"batch_req_{line.key}"
    return _completion_id(line) if line.id is None else line.id


def completed(
    line: Line, request: LineRequest, samples: Sequence[Sample], settings: Settings
) -> Answer:
    """Return the answer of a line's texts, which have ended: all of its first prompt come first."""
    ended = [(sample, sample.end) for sample in samples if sample.end is not None]
    summaries = [summary for _, summary in ended]
    completion = completion_object(
        id=_completion_id(line) if line.is_openai else answer_id(line),
        created=settings.created,
        model=settings.model,
        choices=[_choice(index, *each, request) for index, each in enumerate(ended)],
        usage=usage_object(summaries, request.n, has_details=False),
        seed=request.options.seed,
    )
    answer = _openai_line(line, completion) if line.is_openai else completion
    n_tokens = sum(each.completion_tokens for each in summaries)
    is_cut = any(each.dropped_characters for each in summaries)
    return Answer(line.place, _json_line(answer), n_tokens, is_cut=is_cut)


def tells_of_cut(answer: dict[str, object]) -> bool:
    """Tell whether an answer says that a prompt was cut."""
    response = answer.get("response")
    return tells_of_dropped(response.get("body") if isinstance(response, dict) else answer)


def _openai_line(line: Line, completion: dict[str, object]) -> dict[str, object]:
    response = {"status_code": 200, "request_id": f"req_{line.key}", "body": completion}
    return {"id": answer_id(line), "custom_id": line.id, "response": response, "error": None}


def refused(line: Line, bad: BadLine) -> Answer:
    """Return the answer to a line that cannot be completed."""
    error = {"code": bad.code, "message": bad.message, "line": line.number}
    fields: dict[str, object] = {"id": answer_id(line)}
    if line.is_openai:
        fields |= {"custom_id": line.id, "response": None}
    return Answer(line.place, _json_line({**fields, "error": error}), is_error=True)


def _completion_id(line: Line) -> str:
    return f"cmpl-{line.key}"


def _choice(
    index: int, sample: Sample, summary: Summary, request: LineRequest
) -> dict[str, object]:
    prompt = request.prompts[index // request.n] if request.echo else ""
    tokens = None if request.options.logprobs is None else sample.tokens
    return choice_object(index, sample.text, summary, prompt=prompt, tokens=tokens)


def _json_line(value: dict[str, object]) -> bytes:
    return json.dumps(value, allow_nan=False).encode("ascii") + b"\n"
