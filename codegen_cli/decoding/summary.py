"""What a completion consists of: pieces of text, then how it ended and what it took."""

from dataclasses import dataclass
from typing import Literal

from codegen_cli.decoding.sampled_tokens import SampledToken

EndReason = Literal["stop", "length", "time", "interrupted"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to show now, and the ids sampled since the piece before.

    tokens  those that start in this text, where option `logprobs` asks how likely they were: those
            of all pieces are the tokens of the text, up to the one within which a stop starts
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[SampledToken, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a completion ended and what it took.

    end_reason is "stop" where the text ended: an end mark, a stop, the function's end. It was cut
    by max_tokens or the context ("length"), the deadline ("time") or Ctrl-C ("interrupted").
    completion_tokens counts every id sampled, as OpenAI's usage does: the end-of-text id and those
    of a stop text too. Of drafted_tokens, guessed from the text before them, accepted_tokens were
    then sampled. Of prompt_tokens, cached_tokens were not read: another text had begun with them.
    Of a prompt that is too long for the context dropped_characters are cut from the front.
    prefill_seconds lead to the first logits; decode_seconds follow, without the time that whoever
    takes the pieces spends on them. A step that several texts share counts whole for each of them,
    and waiting for a turn does not: so the tokens per second of such texts add up to the engine's.
    """

    end_reason: EndReason
    seed: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    dropped_characters: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def finish_reason(self) -> FinishReason:
        """The end reason in the words that OpenAI's API has: a text that was cut is "length"."""
        return "stop" if self.end_reason == "stop" else "length"

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt ids read per second; 0 if the prompt was not read to its end."""
        n_read = self.prompt_tokens - self.cached_tokens
        return _rate(n_read if self.completion_tokens else 0, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """Ids sampled per second of decode, without the first: its logits came from prefill."""
        return _rate(max(0, self.completion_tokens - 1), self.decode_seconds)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0  # a coarse clock may have seen no time pass
