"""How to sample and when to end, checked."""

import math
from dataclasses import dataclass, field

from codegen_cli.deadline import Deadline
from codegen_cli.decoding.random_draws import fresh_seed
from codegen_cli.decoding.stopping import Until
from quantize.errors import UserError

_LONGEST_DRAFT = 64  # few are right for so long, and each takes the memory of a token's logits


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to sample and when to end; the defaults are those of CodeGen's authors.

    max_tokens    most ids to sample
    temperature   0 takes the most probable id
    top_p         mass of the nucleus; 1 keeps all ids
    top_k         most ids to choose from; 0 keeps all
    seed          below 2**64; the same seed gives the same text
    stop          texts that end the completion and are no part of it
    until         "function" ends it where one function ends (stopping.FUNCTION_STOPS)
    deadline      time.monotonic() in seconds after which nothing more is computed
    sample        index among several completions of one prompt and seed
    draft         most ids to guess and check in one step, 0 to 64; the text is always the same

    Raises UserError on a value out of range.
    """

    max_tokens: int = 128
    temperature: float = 0.2
    top_p: float = 0.95
    top_k: int = 0
    seed: int = field(default_factory=fresh_seed)
    stop: tuple[str, ...] = ()
    until: Until = "function"
    deadline: Deadline = None
    sample: int = 0
    draft: int = 8

    def __post_init__(self) -> None:
        in_range = 0 <= self.temperature < math.inf  # False for NaN too
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, in_range, "a finite number of at least 0")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("top_k", self.top_k, self.top_k >= 0, "at least 0")
        _check("draft", self.draft, 0 <= self.draft <= _LONGEST_DRAFT, f"0 to {_LONGEST_DRAFT}")
        _check("seed", self.seed, 0 <= self.seed < 2**64, "0 to 2**64 - 1")
        _check("stop", self.stop, "" not in self.stop, "texts that are not empty")
        _check("until", self.until, self.until in ("function", "none"), "'function' or 'none'")


def _check(option: str, found: object, valid: bool, needed: str) -> None:
    if not valid:
        raise UserError(f"{option} is {found!r}, need {needed}")
