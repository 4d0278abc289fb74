"""Texts and a model -> their vectors, as one .npy array or as lines of JSON."""

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codegen_cli import console
from codegen_cli.analysis.embedding import Pool
from codegen_cli.analysis.windows import stride_of
from codegen_cli.language_model import LanguageModel
from quantize.errors import UserError

_HINT = "Choose another file with -o."


def write_vectors(
    load: Callable[[], LanguageModel],
    texts: Sequence[tuple[str, str]],
    pool: Pool,
    *,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write the vectors of (name, text) pairs to a file or to stdout.

    .npy   float32 [n_texts, n_embd], written when all are there
    JSON   an object a line, written to stdout as soon as it is there

    A file is written at the very end. Raises UserError: an empty text or a file that cannot be
    written, before the model is loaded.
    """
    for name, text in texts:
        if not text:
            raise UserError(f"{name} is empty: it has no hidden states", "Leave it out.")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        reason = "it is a directory" if output.is_dir() else f"{output.parent} is no directory"
        raise UserError(f"cannot write {output}: {reason}", _HINT)
    vectors: list[npt.NDArray[np.float32]] = []
    lines: list[bytes] = []
    with load() as model:
        for name, text in texts:
            vectors.append(_vector(model, name, text, pool))
            if as_json:
                lines.append(_json_line(model, name, pool, vectors[-1]))
                if output is None:
                    _write(lines[-1], None)
    if output is not None or not as_json:
        _write(b"".join(lines) if as_json else _npy(np.stack(vectors)), output)


def _vector(model: LanguageModel, name: str, text: str, pool: Pool) -> npt.NDArray[np.float32]:
    n_positions = model.config.n_positions

    with console.progress(name) as advance:

        def on_progress(done: int, total: int) -> None:
            if done == total and total > n_positions:
                console.note(
                    f"{name}: {total} tokens in windows of {n_positions}, each "
                    f"{stride_of(n_positions)} further than the one before (the stride)"
                )
            advance(done, total)

        return model.embed(text, pool, on_progress=on_progress)


def _json_line(
    model: LanguageModel, name: str, pool: Pool, vector: npt.NDArray[np.float32]
) -> bytes:
    fields = {
        "file": name,
        "model": model.name,
        "pool": pool,
        # str gives the shortest digits that mean the same float32.
        "embedding": [float(str(value)) if np.isfinite(value) else None for value in vector],
    }
    return f"{json.dumps(fields, allow_nan=False)}\n".encode()


def _npy(vectors: npt.NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    return buffer.getvalue()


def _write(content: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}", _HINT) from error
