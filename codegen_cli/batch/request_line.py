"""A line's fields and the job's settings -> what it asks for, checked, or BadLine.

A line is {"prompt": ..., "id"?, options}, or one of OpenAI's batch format, whose body has the same
options: https://platform.openai.com/docs/api-reference/batch/request-input
"""

from collections.abc import Mapping
from dataclasses import dataclass

from codegen_cli.batch.bad_line import BadLine
from codegen_cli.batch.line import Line, fields_of
from codegen_cli.batch.line_keys import seed_of
from codegen_cli.batch.settings import Settings
from codegen_cli.decoding.option_values import samples
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.models.registry import split_name
from codegen_cli.text.token_text import check_unicode
from quantize.files.errors import UserError
from quantize.files.input_file import quoted

MOST_CHOICES = 2048
"""Of one line: its prompts times its samples."""

_INVALID = "invalid_request"
_GENERATE_OPTIONS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "until",
    "draft",
    "logprobs",
)
_OPTIONS = (*_GENERATE_OPTIONS, "n", "echo", "special_tokens")
_CLOCK = "what is answered would depend on how fast a machine is; max_tokens does not"
_OF_THE_JOB = "it holds for all lines: give it on the command line"
_REFUSED = {
    "max_time": _CLOCK,
    "deadline": _CLOCK,
    **dict.fromkeys(("model", "threads", "device", "ignore_memory", "created"), _OF_THE_JOB),
    "file": "a line has its prompt in itself",
}
# What OpenAI's bodies may have beside: the values that ask for nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "suffix": (None, ""),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "stream": (None, False),
    "stream_options": (None,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRequest:
    """What a line asks for: n completions of each of its prompts.

    echo            each is given after its prompt
    special_tokens  `<|endoftext|>` in a prompt is the end mark
    """

    prompts: tuple[str, ...]
    options: GenerateOptions
    n: int = 1
    echo: bool = False
    special_tokens: bool = False


def request_of(line: Line, settings: Settings) -> LineRequest:
    """Return what a line asks for; raises BadLine."""
    if line.bad:
        raise line.bad
    fields = fields_of(line.content)
    _check_id(fields, "custom_id" if line.is_openai else "id", line)
    if line.is_openai:
        asked = _openai_body(fields, settings)
    else:
        asked = {name: value for name, value in fields.items() if name != "id"}
    try:
        return _request(asked, settings, seed_of(line.key))
    except UserError as error:
        raise BadLine(_INVALID, error.message) from error


def _check_id(fields: Mapping[str, object], name: str, line: Line) -> None:
    value = fields.get(name)
    if line.is_openai and not isinstance(value, str):
        raise BadLine(_INVALID, f"{name} is {quoted(value)}, need text")
    if line.id is None and value is not None:
        raise BadLine(_INVALID, f"{name} is {quoted(value)}, need text or a whole number")


def _openai_body(fields: Mapping[str, object], settings: Settings) -> dict[str, object]:
    """Return the options of an OpenAI line, those that ask for nothing left out."""
    for name in fields:
        if name not in ("custom_id", "method", "url", "body"):
            raise BadLine(_INVALID, f"unknown field {quoted(name)} beside body")
    if fields.get("method", "POST") != "POST":
        raise BadLine("invalid_method", f"method is {quoted(fields['method'])}, need 'POST'")
    if fields.get("url") != "/v1/completions":
        found = quoted(fields.get("url"))
        raise BadLine("invalid_url", f"url is {found}, need '/v1/completions'")
    body = fields.get("body")
    if not isinstance(body, dict):
        raise BadLine(_INVALID, f"body is {quoted(body)}, need an object")
    _check_model(body.get("model"), settings.model)
    return {name: value for name, value in body.items() if not _asks_nothing(name, value, body)}


def _check_model(named: object, running: str) -> None:
    """Raise BadLine unless a body names the running model, with or without its format."""
    name, format = split_name(running)
    try:
        asked = split_name(named) if isinstance(named, str) else None
    except UserError:
        asked = None
    if asked not in ((name, format), (name, None)):
        raise BadLine("mismatched_model", f"model is {quoted(named)}, but {running} is running")


def _asks_nothing(name: str, value: object, body: Mapping[str, object]) -> bool:
    if name in ("model", "user"):
        return True
    neutral = _NEUTRAL | {"best_of": (None, body.get("n") or 1)}
    if name in neutral and not _is_one_of(value, neutral[name]):
        raise BadLine(_INVALID, f"{name} is {quoted(value)}, which codegen cannot do")
    return name in neutral


def _is_one_of(value: object, choices: tuple[object, ...]) -> bool:
    """Tell whether a value is among choices, where false is not 0."""
    return any(value == each and (value is False) == (each is False) for each in choices)


def _request(asked: Mapping[str, object], settings: Settings, seed: int) -> LineRequest:
    """Return what options ask for; UserError for those out of range, BadLine for others."""
    for name in asked:
        if name in _REFUSED:
            raise BadLine(_INVALID, f"{name} is no option of a line: {_REFUSED[name]}")
        if name not in (*_OPTIONS, "prompt"):
            raise BadLine(_INVALID, f"unknown option {quoted(name)}")
    given = {name: value for name, value in asked.items() if value is not None}
    values = {"seed": seed, "draft": settings.draft, **settings.options, **given}
    prompts = _prompts(asked.get("prompt"))
    n = samples("n", values.get("n", 1))
    if n * len(prompts) > MOST_CHOICES:
        raise BadLine(_INVALID, f"{len(prompts)} prompts times {n}, need at most {MOST_CHOICES}")
    options = {name: values[name] for name in _GENERATE_OPTIONS if name in values}
    return LineRequest(
        prompts=prompts,
        options=GenerateOptions(**options),  # type: ignore[arg-type]
        n=n,
        echo=_flag("echo", values),
        special_tokens=_flag("special_tokens", values),
    )


def _prompts(value: object) -> tuple[str, ...]:
    prompts = value if isinstance(value, list) else [value]
    for each in prompts:
        if not isinstance(each, str):
            raise BadLine(_INVALID, f"prompt is {quoted(value)}, need text, or a list of texts")
        check_unicode(each, "the prompt")
    if not all(prompts) or not prompts:
        raise BadLine(_INVALID, "the prompt is empty")
    return tuple(prompts)


def _flag(name: str, values: Mapping[str, object]) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise BadLine(_INVALID, f"{name} is {quoted(value)}, need true or false")
    return value
