"""How to sample and when to end, checked."""

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, get_args

from codegen_cli.contract.deadline import Deadline
from codegen_cli.decoding import defaults
from codegen_cli.decoding.defaults import Until
from codegen_cli.decoding.option_values import choice, real_number, texts, whole_number
from codegen_cli.decoding.random_draws import fresh_seed

_LONGEST_DRAFT = 64  # few are right for so long, and each takes the memory of a token's logits
_MOST_LIKELIEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to sample and when to end; defaults.py has the defaults.

    max_tokens    most ids to sample
    temperature   0 takes the most probable id
    top_p         mass of the nucleus; 1 keeps all ids
    top_k         most ids to choose from; 0 keeps all
    seed          below 2**64; the same seed gives the same text
    stop          texts that end the completion and are no part of it, or one
    until         "function" ends it where one function or method ends (stopping, open_method)
    deadline      time.monotonic() in seconds after which nothing more is computed
    sample        below 2**64: index among several completions of one prompt and seed
    draft         most ids to guess and check in one step, 0 to 64; the text is always the same
    logprobs      tell how likely each token was, and so many of the likeliest, 0 to 20; None: not

    None stands for the default. Numbers may be of NumPy's types. Raises UserError on a value of
    another type or out of range.
    """

    max_tokens: int = defaults.MAX_TOKENS
    temperature: float = defaults.TEMPERATURE
    top_p: float = defaults.TOP_P
    top_k: int = defaults.TOP_K
    seed: int = field(default_factory=fresh_seed)
    stop: tuple[str, ...] = ()
    until: Until = defaults.UNTIL
    deadline: Deadline = None
    sample: int = 0
    draft: int = defaults.DRAFT
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None:
                value = each.default if each.default_factory is MISSING else each.default_factory()
            object.__setattr__(self, each.name, checked(each.name, value))


def checked(option: str, value: object) -> Any:
    """Return a value given for an option of GenerateOptions in the option's own type.

    Raises UserError as there.
    """
    return _CHECKS[option](option, value)


def _deadline(option: str, value: object) -> Deadline:
    if value is None:
        return None
    return real_number(option, value, "seconds of time.monotonic()", fits=lambda number: True)


def _logprobs(option: str, value: object) -> int | None:
    if value is None:
        return None
    needed = f"0 to {_MOST_LIKELIEST}"
    return whole_number(option, value, needed, least=0, most=_MOST_LIKELIEST)


_64_bits = partial(whole_number, needed="0 to 2**64 - 1", least=0, most=2**64 - 1)

_CHECKS: dict[str, Callable[[str, object], object]] = {
    "max_tokens": partial(whole_number, needed="at least 1", least=1),
    "temperature": partial(
        real_number,
        needed="a finite number of at least 0",
        fits=lambda number: 0 <= number < math.inf,
    ),
    "top_p": partial(
        real_number, needed="above 0 and at most 1", fits=lambda number: 0 < number <= 1
    ),
    "top_k": partial(whole_number, needed="at least 0", least=0),
    "seed": _64_bits,
    "stop": texts,
    "until": partial(choice, choices=get_args(Until)),
    "deadline": _deadline,
    "sample": _64_bits,
    "draft": partial(whole_number, needed=f"0 to {_LONGEST_DRAFT}", least=0, most=_LONGEST_DRAFT),
    "logprobs": _logprobs,
}
