"""What a completion consists of: pieces of text, then how it ended and what it took."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "time", "interrupted"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to show now, and the ids sampled since the piece before."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """How a completion ended and what it took.

    completion_tokens counts every id sampled, as OpenAI's usage does: the end-of-text id and those
    of a stop text too. prefill_seconds lead to the first logits; decode_seconds follow, without
    the time that whoever takes the pieces spends on them.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt ids read per second; 0 if the prompt was not read to its end."""
        return _rate(self.prompt_tokens if self.completion_tokens else 0, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """Ids sampled per second of decode, without the first: its logits came from prefill."""
        return _rate(max(0, self.completion_tokens - 1), self.decode_seconds)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0  # a coarse clock may have seen no time pass
