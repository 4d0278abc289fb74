"""A text's score -> its tokens with their places and probabilities, for people and for programs."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from codegen_cli.scoring.likelihood import Score
from codegen_cli.text.text_stream import TextStream
from codegen_cli.text.tokenizer import Tokenizer

HEADER = "place\tprobability\tbits\ttoken\tlikeliest\tits_probability"


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """One token of a text: where it starts, and what the model thought of it.

    line, column               from 1; a character of several tokens is the place of all of them
    log_likelihood             None for a first token that nothing could precede, or not finite
    likeliest                  what the model expected most, with its log-likelihood
    """

    id: int
    content: bytes
    line: int
    column: int
    log_likelihood: float | None
    likeliest_id: int
    likeliest: bytes
    likeliest_log_likelihood: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """Whole characters of a text with the probability of the tokens that they are made of."""

    text: str
    probability: float


def scored_tokens(score: Score, tokenizer: Tokenizer) -> Iterator[ScoredToken]:
    """Yield the tokens of a scored text in their order."""
    stream = TextStream(tokenizer.token_bytes, tokenizer.options.errors)
    line = column = 1
    for index, token_id in enumerate(score.ids.tolist()):
        likeliest_id = int(score.likeliest_ids[index])
        yield ScoredToken(
            id=token_id,
            content=tokenizer.token_bytes(token_id),
            line=line,
            column=column,
            log_likelihood=_number(score.log_likelihoods[index]),
            likeliest_id=likeliest_id,
            likeliest=tokenizer.token_bytes(likeliest_id) if likeliest_id >= 0 else b"",
            likeliest_log_likelihood=_number(score.likeliest_log_likelihoods[index]),
        )
        text = stream.feed(token_id)
        line += text.count("\n")
        column = len(text) - text.rfind("\n") if "\n" in text else column + len(text)


def cells(score: Score, tokenizer: Tokenizer) -> Iterator[Cell]:
    """Yield the text in pieces of whole characters, whose tokens' probabilities multiply."""
    stream = TextStream(tokenizer.token_bytes, tokenizer.options.errors)
    log_likelihood = 0.0
    for token_id, value in zip(score.ids.tolist(), score.log_likelihoods.tolist(), strict=True):
        log_likelihood += 0.0 if math.isnan(value) else value
        if text := stream.feed(token_id):
            yield Cell(text, math.exp(log_likelihood))
            log_likelihood = 0.0
    if text := stream.finish():
        yield Cell(text, math.exp(log_likelihood))


def row(token: ScoredToken, name: str) -> str:
    """Return a token as one line of tab-separated fields, those of HEADER."""
    place = f"{name}:{token.line}:{token.column}"
    fields = [place, *_probability(token.log_likelihood), _spelled(token.content)]
    likeliest = _probability(token.likeliest_log_likelihood)[0]
    return "\t".join([*fields, _spelled(token.likeliest), likeliest])


def json_token(token: ScoredToken) -> dict[str, object]:
    """Return a token as a JSON object; `bytes` are exact where `token` cannot be."""
    likeliest = None
    if token.likeliest_log_likelihood is not None:
        likeliest = {
            "token": token.likeliest.decode(errors="replace"),
            "id": token.likeliest_id,
            "log_likelihood": token.likeliest_log_likelihood,
        }
    return {
        "token": token.content.decode(errors="replace"),
        "bytes": list(token.content),
        "id": token.id,
        "line": token.line,
        "column": token.column,
        "log_likelihood": token.log_likelihood,
        "likeliest": likeliest,
    }


def most_surprising(tokens: Iterable[ScoredToken], count: int) -> list[ScoredToken]:
    """Return the `count` least likely tokens, the least likely first."""
    scored = [token for token in tokens if token.log_likelihood is not None]
    return sorted(scored, key=lambda token: token.log_likelihood or 0.0)[:count]


def description(token: ScoredToken) -> str:
    """Return a surprising token in words, for people."""
    expected = ""
    if token.likeliest_id != token.id:
        share = percent(token.likeliest_log_likelihood)
        expected = f", expected {_spelled(token.likeliest)} {share}"
    place = f"line {token.line}, column {token.column}"
    return f"{place}: {_spelled(token.content)} {percent(token.log_likelihood)}{expected}"


def percent(log_likelihood: float | None) -> str:
    """Return a probability in percent, with two significant digits below 10."""
    if log_likelihood is None:
        return "-"
    share = 100 * math.exp(log_likelihood)
    if share >= 9.95:
        return f"{share:.0f} %"
    return f"{share:.2g} %" if share >= 0.001 else "< 0.001 %"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _probability(log_likelihood: float | None) -> tuple[str, str]:
    if log_likelihood is None:
        return "-", "-"
    return f"{math.exp(log_likelihood):.3g}", f"{-log_likelihood / math.log(2):.2f}"


def _spelled(content: bytes) -> str:
    """Return a token's text in quotes on one line; bytes of an unfinished character as \\xNN."""
    text = json.dumps(content.decode(errors="surrogateescape"), ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    is_byte = 0xDC80 <= code <= 0xDCFF
    return f"\\x{code - 0xDC00:02x}" if is_byte else f"\\u{code:04x}"
