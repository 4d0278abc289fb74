"""What a caller gave for an option -> a value of the option's own type, or an error naming both."""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import TypeGuard

from codegen_cli.decoding.defaults import MOST_SAMPLES
from codegen_cli.text.token_text import check_unicode
from quantize.files.errors import UserError
from quantize.files.input_file import quoted


def whole_number(
    option: str, value: object, needed: str, *, least: int, most: int | None = None
) -> int:
    """Return a whole number of any numeric type as an int: NumPy's, or 3.0 for 3; no bool.

    needed  the range `least` to `most`, in the error's words
    """
    try:
        number = int(value) if _is_number(value) else None
    except (OverflowError, ValueError):  # infinite, or not a number
        number = None
    if number is None or number != value:
        raise UserError(f"{option} is {_shown(value)}, need a whole number, {needed}")
    if number < least or (most is not None and number > most):
        raise UserError(f"{option} is {_shown(value)}, need {needed}")
    return number


def real_number(option: str, value: object, needed: str, *, fits: Callable[[float], bool]) -> float:
    """Return a number of any numeric type as a float, if it fits; no bool, no NaN."""
    if not _is_number(value):
        raise UserError(f"{option} is {_shown(value)}, need a number")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats
        number = math.nan
    if math.isnan(number) or not fits(number):
        raise UserError(f"{option} is {_shown(value)}, need {needed}")
    return number


def samples(option: str, value: object) -> int:
    """Return how many texts to make of one prompt."""
    return whole_number(option, value, f"1 to {MOST_SAMPLES}", least=1, most=MOST_SAMPLES)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def texts(option: str, value: object) -> tuple[str, ...]:
    """Return a text, or several, as a tuple; none may be empty, and all can occur in a text."""
    found = (value,) if isinstance(value, str) else value
    if isinstance(found, Iterable) and not isinstance(found, bytes | bytearray):
        found = tuple(found)
        if all(isinstance(text, str) and text for text in found):
            for text in found:
                check_unicode(text, f"{option} {quoted(text)}")
            return found
    raise UserError(f"{option} is {_shown(found)}, need texts that are not empty")


def choice(option: str, value: object, choices: tuple[str, ...]) -> str:
    """Return one of the choices."""
    if isinstance(value, str) and value in choices:
        return value
    raise UserError(f"{option} is {_shown(value)}, need {' or '.join(map(repr, choices))}")


def _shown(value: object) -> str:
    """Return a value as an error shows it: short whatever it is, numbers of 128 bits in digits."""
    return repr(value) if type(value) is int and value.bit_length() <= 128 else quoted(value)
