"""Texts and a model -> their vectors, as one .npy array or as lines of JSON."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codegen_cli.models.registry import name_with_format
from codegen_cli.reports.reading import read_in_turn
from codegen_cli.scoring.embedding import Pool
from codegen_cli.scoring.windows import stride_of
from codegen_cli.session.language_model import LanguageModel
from codegen_cli.session.many_texts import OnProgress
from codegen_cli.terminal import console, streams
from quantize.files.errors import UserError
from quantize.files.whole_file import SHARED, blaming, replacing, write_all

Write = Callable[[bytes], None]
Vector = npt.NDArray[np.float32]


def refuse_empty(name: str, text: str) -> None:
    """Raise a UserError for a text that has no vector."""
    if not text:
        raise UserError(f"{name} is empty: it has no hidden states", "Leave it out.")


def judge_output(output: Path) -> None:
    """Raise a UserError for a path that cannot become a file, before work is put into it."""
    with blaming(output):
        reason = "it is a directory" if output.is_dir() else f"{output.parent} is no directory"
        if output.is_dir() or not output.parent.is_dir():
            raise UserError(f"cannot write {output}: {reason}", "Choose another file with -o.")


def write_vectors(
    model: LanguageModel,
    texts: Iterable[tuple[str, str]],
    n_texts: int,
    pool: Pool,
    *,
    output: Path | None,
    as_json: bool,
    special_tokens: bool = False,
) -> None:
    """Write the vectors of n_texts (name, text) pairs to a file, or to stdout as they are made.

    .npy   float32 [n_texts, n_embd]
    JSON   an object a line

    The file is written whole or not at all. Raises UserError: an empty text, or a file that cannot
    be written.
    """
    n_tokens = 0

    def read(texts: Iterator[str], on_progress: OnProgress) -> Iterator[Vector]:
        def count(done: int, total: int) -> None:
            nonlocal n_tokens
            n_tokens = total
            on_progress(done, total)

        return model.embed_many(texts, pool, special_tokens=special_tokens, on_progress=count)

    with contextlib.nullcontext(streams.write_result) if output is None else _file(output) as write:
        if not as_json:
            write(_npy_header(n_texts, model.config.n_embd))
        for name, vector in read_in_turn(_with_content(texts), read):
            _note_windows(model, name, n_tokens)
            write(
                _json_line(model, name, pool, vector) if as_json else vector.astype("<f4").tobytes()
            )


@contextlib.contextmanager
def _file(output: Path) -> Iterator[Write]:
    """Yields what writes to a file; a device or a pipe is not replaced but written to."""
    if output.exists() and not output.is_file():
        with blaming(output):
            file = output.open("wb", buffering=0)
        with file:
            yield lambda content: write_all(file, memoryview(content), output)
    else:
        target = Path(os.path.realpath(output))  # a link stays: what it points to is replaced
        with replacing(target, mode=SHARED) as file:
            yield lambda content: write_all(file, memoryview(content), output)


def _with_content(texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, text in texts:
        refuse_empty(name, text)
        yield name, text


def _note_windows(model: LanguageModel, name: str, n_tokens: int) -> None:
    n_positions = model.config.n_positions
    if n_tokens > n_positions:
        console.note(
            f"{name}: {n_tokens} tokens in windows of {n_positions}, each "
            f"{stride_of(n_positions)} further than the one before (the stride)"
        )


def _json_line(model: LanguageModel, name: str, pool: Pool, vector: Vector) -> bytes:
    fields = {
        "file": name,
        "model": name_with_format(model.name, model.format),
        "pool": pool,
        # str gives the shortest digits that mean the same float32.
        "embedding": [float(str(value)) if np.isfinite(value) else None for value in vector],
    }
    return f"{streams.json_text(fields)}\n".encode()


def _npy_header(n_texts: int, n_embd: int) -> bytes:
    """Return what stands before the rows in an .npy file."""
    buffer = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (n_texts, n_embd)}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
