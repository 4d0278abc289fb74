"""Texts and a model -> their likelihood on stdout: a table, tokens, a heat map or JSON."""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from codegen_cli.models.registry import name_with_format
from codegen_cli.reports import token_table
from codegen_cli.reports.reading import read_in_turn
from codegen_cli.scoring.likelihood import Score, bits_per_byte, perplexity
from codegen_cli.scoring.windows import stride_of
from codegen_cli.session.language_model import LanguageModel
from codegen_cli.session.many_texts import OnProgress
from codegen_cli.terminal import console, drawing, screen, streams, tables

_N_SURPRISES = 5
_LEAST_COLUMNS = 60  # of a table of files: numbers take 44, and the rest is for a name


@dataclass(slots=True)
class _Sums:
    """What is known of one file, or of all."""

    name: str
    log_likelihood: float = 0.0
    n_tokens: int = 0
    n_bytes: int = 0

    def add(self, other: "_Sums") -> None:
        self.log_likelihood += other.log_likelihood
        self.n_tokens += other.n_tokens
        self.n_bytes += other.n_bytes

    def sentence(self) -> str:
        """Return all numbers in words."""
        bits = _shown(bits_per_byte(self.log_likelihood, self.n_bytes))
        likelihood = _shown(perplexity(self.log_likelihood, self.n_tokens))
        return (
            f"{console.printable(self.name)}: {bits} bits per byte, perplexity {likelihood}, "
            f"{self.n_tokens} tokens, {self.n_bytes} bytes"
        )

    def fields(self) -> dict[str, object]:
        """Return all numbers for JSON; null stands for those that an empty text lacks."""
        return {
            "bytes": self.n_bytes,
            "tokens": self.n_tokens,
            "log_likelihood": _finite(self.log_likelihood),
            "bits_per_byte": _finite(bits_per_byte(self.log_likelihood, self.n_bytes)),
            "perplexity": _finite(perplexity(self.log_likelihood, self.n_tokens)),
        }


class _Writer(Protocol):
    def file(self, sums: _Sums, score: Score) -> None: ...

    def end(self, total: _Sums, n_files: int, is_complete: bool) -> None: ...


def write_scores(
    model: LanguageModel,
    texts: Iterable[tuple[str, str]],
    *,
    with_tokens: bool,
    as_json: bool,
    special_tokens: bool = False,
) -> None:
    """Score (name, text) after (name, text) and write each result as soon as it is there.

    JSON is one object whatever ends the run: `is_complete` tells whether all files are in it.
    Raises UserError.
    """
    total, n_files, is_complete = _Sums("total"), 0, False
    writer = _writer(model, with_tokens=with_tokens, as_json=as_json)

    def read(texts: Iterator[str], on_progress: OnProgress) -> Iterator[Score]:
        return model.score_many(texts, special_tokens=special_tokens, on_progress=on_progress)

    try:
        for name, score in read_in_turn(texts, read):
            _note_windows(model, name, score)
            sums = _Sums(name, score.log_likelihood, score.n_scored, score.n_bytes)
            total.add(sums)
            n_files += 1
            writer.file(sums, score)  # last: an interruption comes while a pipe is being filled
        is_complete = True
    finally:
        if is_complete or as_json:
            writer.end(total, n_files, is_complete)


def _writer(model: LanguageModel, *, with_tokens: bool, as_json: bool) -> _Writer:
    if as_json:
        return _JsonWriter(model, with_tokens)
    if not with_tokens:
        return _TableWriter()
    return _HeatWriter(model) if screen.shows_colours(sys.stdout) else _RowWriter(model)


class _TableWriter:
    """One line a file, the numbers first, as `wc` has it; sentences on a narrow terminal."""

    def __init__(self) -> None:
        width = screen.columns(sys.stdout)
        self._is_narrow = width is not None and width < _LEAST_COLUMNS
        if not self._is_narrow:
            streams.write_line(
                f"{'bits/byte':>9}  {'perplexity':>10}  {'tokens':>8}  {'bytes':>9}  file"
            )

    def file(self, sums: _Sums, score: Score) -> None:
        self._line(sums)

    def end(self, total: _Sums, n_files: int, is_complete: bool) -> None:
        if n_files > 1:
            self._line(total)

    def _line(self, sums: _Sums) -> None:
        if self._is_narrow:
            tables.prose(sums.sentence(), hang="  ")
            return
        bits = _shown(bits_per_byte(sums.log_likelihood, sums.n_bytes))
        likelihood = _shown(perplexity(sums.log_likelihood, sums.n_tokens))
        name = console.printable(sums.name)
        streams.write_line(
            f"{bits:>9}  {likelihood:>10}  {sums.n_tokens:8}  {sums.n_bytes:9}  {name}"
        )


class _RowWriter:
    """One line a token, for other programs; the sums go to stderr, quiet or not."""

    def __init__(self, model: LanguageModel) -> None:
        self._tokenizer = model.tokenizer
        streams.write_line(token_table.HEADER)

    def file(self, sums: _Sums, score: Score) -> None:
        for token in token_table.scored_tokens(score, self._tokenizer):
            streams.write_line(token_table.row(token, console.printable(sums.name)))
        console.show(sums.sentence())

    def end(self, total: _Sums, n_files: int, is_complete: bool) -> None:
        if n_files > 1:
            console.show(total.sentence())


class _HeatWriter:
    """The text in colours on a terminal, with its sums and what surprised most."""

    def __init__(self, model: LanguageModel) -> None:
        self._tokenizer = model.tokenizer

    def file(self, sums: _Sums, score: Score) -> None:
        tables.prose(sums.sentence())
        cells = token_table.cells(score, self._tokenizer)
        drawing.heat_map((cell.text, cell.probability) for cell in cells)
        tokens = token_table.scored_tokens(score, self._tokenizer)
        for token in token_table.most_surprising(tokens, _N_SURPRISES):
            tables.prose(token_table.description(token), hang="  ")
        streams.write_line("")

    def end(self, total: _Sums, n_files: int, is_complete: bool) -> None:
        if n_files > 1:
            tables.prose(total.sentence())


class _JsonWriter:
    """One object for all files, each of them on a line of its own as soon as it is scored."""

    def __init__(self, model: LanguageModel, with_tokens: bool) -> None:
        self._tokenizer = model.tokenizer
        self._with_tokens = with_tokens
        self._separator = "\n"
        n_positions = model.config.n_positions
        name = name_with_format(model.name, model.format)
        head = {"model": name, "n_positions": n_positions, "stride": stride_of(n_positions)}
        streams.write_result(f'{streams.json_text(head)[:-1]}, "files": [')

    def file(self, sums: _Sums, score: Score) -> None:
        fields = {"file": sums.name, **sums.fields(), "windows": score.n_windows}
        if self._with_tokens:
            tokens = token_table.scored_tokens(score, self._tokenizer)
            fields["token_scores"] = [token_table.json_token(token) for token in tokens]
        streams.write_result(f"{self._separator}{streams.json_text(fields)}")
        self._separator = ",\n"

    def end(self, total: _Sums, n_files: int, is_complete: bool) -> None:
        tail = {"total": total.fields(), "is_complete": is_complete}
        streams.write_result(f"\n], {streams.json_text(tail)[1:]}\n")


def _note_windows(model: LanguageModel, name: str, score: Score) -> None:
    n_positions = model.config.n_positions
    if not len(score.ids):
        console.note(f"{name} is empty")
    elif score.n_windows > 1:
        console.note(
            f"{name}: {len(score.ids)} tokens in {score.n_windows} windows of {n_positions}, "
            f"each {stride_of(n_positions)} further than the one before (the stride)"
        )


def _shown(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if value < 1e4 else f"{value:.3e}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
