"""The bytes of a JSON file -> the dict they hold; anything ambiguous is a UserError."""

import json
from typing import NoReturn

from quantize.files.errors import UserError
from quantize.files.input_file import quoted

# Parsing makes up to 250 bytes of each value. CodeGen's tokenizer.json, the longest of its files,
# has 100,000 values, or 200,000 with its merges as pairs.
_MOST_VALUES = 1 << 19


def parse_json_object(text: bytes, where: str) -> dict[str, object]:
    """Parse UTF-8 JSON that must be an object; `where` names the file in errors.

    Refused with a UserError: invalid UTF-8 or JSON, NaN and Infinity, a key given twice in one
    object, nesting too deep to parse, numbers too long to parse, more values than any file of a
    checkpoint has, and any value but an object.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise _invalid(where, f"it has more than {_MOST_VALUES} values")
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise _invalid(where, "it is nested too deeply") from None
    except ValueError as error:
        raise _invalid(where, str(error)) from None
    if not isinstance(value, dict):
        raise _invalid(where, f"found {quoted(value)}, need an object {{...}}")
    return value


def _invalid(where: str, reason: str) -> UserError:
    return UserError(
        f"{where} is not a valid JSON object: {reason}",
        "Download the file again, or compare it with the original.",
    )


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    items = dict(pairs)
    if len(items) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quoted(twice)} is given twice")
    return items


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
