"""A file's lines and a job's seed -> what of each is known before it is answered."""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from codegen_cli.batch.bad_line import BadLine
from codegen_cli.batch.line_keys import LineId, LineKeys
from codegen_cli.batch.lines import LONGEST_BYTES, numbered_lines
from quantize.files.errors import UserError
from quantize.files.json_object import parse_json_object

_OPENAI_FIELDS = ("custom_id", "method", "url", "body")


class Line(NamedTuple):
    """A line to answer; any process can, with the job's Settings.

    place      its place among the lines that are answered, from 0
    number     its number in the file, from 1
    content    its bytes; empty if nothing of it is to be read
    key        as line_keys has it
    is_openai  whether it is of OpenAI's batch format
    id         its id or custom_id, if it has one that can be one
    bad        why it cannot be answered; None as far as is known
    """

    place: int
    number: int
    content: bytes
    key: str
    is_openai: bool = False
    id: LineId | None = None
    bad: BadLine | None = None


def keyed_lines(pieces: Iterable[bytes], job_seed: int) -> Iterator[Line]:
    """Yield the lines of a file, given as its bytes cut anywhere, in their order."""
    keys = LineKeys(job_seed)
    for place, (number, content) in enumerate(numbered_lines(pieces)):
        yield _keyed(place, number, content, keys)


def _keyed(place: int, number: int, content: bytes, keys: LineKeys) -> Line:
    try:
        fields = fields_of(content)
    except BadLine as error:
        key, _ = keys.key(None, content)
        return Line(place, number, b"", key, bad=error)
    is_openai = any(name in fields for name in _OPENAI_FIELDS)
    line_id = _usable_id(fields.get("custom_id" if is_openai else "id"))
    key, is_repeated = keys.key(line_id, content)
    bad = _repeated(line_id, is_openai) if is_repeated else None
    return Line(place, number, b"" if bad else content, key, is_openai, line_id, bad)


def fields_of(content: bytes) -> dict[str, object]:
    """Return the fields of a line; raises BadLine unless it is one object of JSON."""
    if len(content) > LONGEST_BYTES:
        raise BadLine("line_too_long", f"the line has more than {LONGEST_BYTES} bytes")
    try:
        return parse_json_object(content, "the line")
    except UserError as error:
        raise BadLine("invalid_json_line", error.message) from error


def _usable_id(value: object) -> LineId | None:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def _repeated(line_id: LineId | None, is_openai: bool) -> BadLine:
    name = "custom_id" if is_openai else "id"
    return BadLine(f"duplicate_{name}", f"{name} {json.dumps(line_id):.80} is an earlier line's")
