"""Held-out ids of CodeGen's tokenizer -> contexts of the ids that a model's own tokenizer has.

Files of ids are uint16, documents separated by `<|endoftext|>`; those of another tokenizer are
decoded by CodeGen's (tests/data/tokenizer.json) and encoded anew.
"""

import io
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codegen_cli.text.tokenizer import Tokenizer

DATA = Path(__file__).parent.parent / "tests" / "data"

Ids = npt.NDArray[np.int32]


def shipped_sets(tokenizer: Tokenizer, n_tokens: int) -> Iterator[tuple[str, list[Ids]]]:
    """Yield name and contexts, each of at most n_tokens ids, of tests/data/validation_ids.npz."""
    codegen = codegen_tokenizer()
    with np.load(DATA / "validation_ids.npz") as sets:
        for name in sorted(sets.files):
            yield name, [encode_anew(ids, codegen, tokenizer)[:n_tokens] for ids in sets[name]]


def corpus_sets(
    paths: Sequence[Path], n_contexts: int, tokenizer: Tokenizer, n_tokens: int
) -> Iterator[tuple[str, list[Ids]]]:
    """Yield name and n_contexts contexts, spread evenly, of each .npy.xz file of CodeGen's ids."""
    codegen = codegen_tokenizer()
    for path in paths:
        stored = np.load(io.BytesIO(lzma.decompress(path.read_bytes())))
        ids = encode_anew(stored, codegen, tokenizer)
        starts = np.linspace(0, max(len(ids) - n_tokens, 0), n_contexts).astype(int)
        name = path.name.removesuffix(".npy.xz").removeprefix("valid_")
        yield name, [ids[start : start + n_tokens] for start in starts]


def codegen_tokenizer() -> Tokenizer:
    """Return the tokenizer of the published checkpoints, whose ids are stored."""
    return Tokenizer.from_json((DATA / "tokenizer.json").read_bytes())


def encode_anew(ids: npt.NDArray[np.integer], codegen: Tokenizer, tokenizer: Tokenizer) -> Ids:
    """Return the ids of the same text by another tokenizer; the end mark stays the end mark."""
    text = codegen.decode(ids.tolist())
    return np.array(tokenizer.encode(text, special_tokens=True), np.int32)
