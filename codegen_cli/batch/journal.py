"""What a job's answers follow from <-> the journal beside its OUT: one object of JSON, a line each.

    {"codegen_batch": 1,        the version of this form
     "version": "0.1.0",        codegen's own
     "model": "350M-mono:int4", as answers state it
     "identity": {...},         contract.engine.Identity: which weights, which arithmetic
     "options": {...},          of lines that have none of their own
     "created": 0, "seed": 7,   as answers have it; the job's seed
     "in_bytes": 99, "in_sha256": "..."}

It is written before the first answer and never changed: how far the job is, OUT itself tells.
"""

import json
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import get_origin

from quantize.files.errors import UserError
from quantize.files.input_file import exists, quoted, read_input
from quantize.files.json_object import parse_json_object
from quantize.files.whole_file import SHARED, replacing, write_all

_FORM = 1
_MOST_BYTES = 16 << 20
# What is told of where two jobs differ, most telling first.
_NAMES = {
    "in_sha256": "input",
    "model": "model",
    "identity": "state of the model",
    "seed": "seed",
    "options": "option",
    "created": "--created",
    "version": "codegen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What the bytes of all answers follow from; compared as JSON has it."""

    version: str
    model: str
    identity: dict[str, object]
    options: dict[str, object]
    created: int
    seed: int
    in_bytes: int
    in_sha256: str


_TYPES = {field.name: get_origin(field.type) or field.type for field in fields_of(Journal)}


def journal_path(output: Path) -> Path:
    """Return where the journal of an OUT is."""
    return output.with_name(f"{output.name}.journal")


def read_journal(path: Path) -> Journal | None:
    """Return a journal, None where there is none; UserError for a file that is something else."""
    if not exists(path):
        return None
    try:
        fields = parse_json_object(read_input(path, _MOST_BYTES), str(path))
    except UserError as error:
        raise _no_journal(path) from error
    form = fields.pop("codegen_batch", None)
    if isinstance(form, int) and form != _FORM:
        raise UserError(
            f"{path} is a journal of form {form}, need {_FORM}",
            "Another version of codegen began this OUT: go on with that, or choose another OUT.",
        )
    if form is None or {name: type(value) for name, value in fields.items()} != _TYPES:
        raise _no_journal(path)
    return Journal(**fields)  # type: ignore[arg-type]


def _no_journal(path: Path) -> UserError:
    return UserError(
        f"{path} is no journal of a batch",
        "Choose another OUT with -o: its journal would replace that file.",
    )


def write_journal(path: Path, journal: Journal) -> None:
    """Write a journal, whole or not at all."""
    fields = {"codegen_batch": _FORM, **asdict(journal)}
    lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(fields[name])}" for name in fields)
    with replacing(path, mode=SHARED) as file:
        write_all(file, memoryview(f"{{{lines}}}\n".encode("ascii")), path)


def require_same(found: Journal, need: Journal, output: Path) -> None:
    """Raise UserError, naming what differs, unless an OUT's journal is that of this job."""
    was, now = (json.loads(json.dumps(asdict(each))) for each in (found, need))
    for field, name in _NAMES.items():
        if was[field] != now[field]:
            raise UserError(
                f"{output} was begun with another {name}{_difference(field, was, now)}",
                "Go on as it was begun, or choose another OUT with -o; to begin anew, remove "
                f"{output} and {journal_path(output)}.",
            )


def _difference(field: str, was: dict[str, object], now: dict[str, object]) -> str:
    old, new = was[field], now[field]
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in old | new if old.get(name) != new.get(name)]
        if field == "identity":  # hashes and versions tell people nothing
            return f" ({', '.join(names)})"
        return "".join(f"; {name}: {_change(old.get(name), new.get(name))}" for name in names)
    return "" if field == "in_sha256" else f": {_change(old, new)}"


def _change(was: object, now: object) -> str:
    return f"it was {quoted(was)}, is {quoted(now)}"
