"""Names in a directory or a repository -> those that a checkpoint consists of."""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from quantize.checkpoint.tokenizer_files import COMPANIONS, TOKENIZER, VOCABULARY
from quantize.files.errors import UserError
from quantize.files.input_file import read_input

INDEX_SUFFIX = ".index.json"
WEIGHTS = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
"""What holds the weights or lists the files that do; the first that exists is used."""

LARGEST_INDEX_BYTES = 64 << 20


def companions(names: Iterable[str]) -> list[str]:
    """Return what is needed beside weights: tokenizer.json, or else what it can be built from."""
    there = set(names)
    is_old = TOKENIZER not in there and there.issuperset(VOCABULARY)
    tokenizer = VOCABULARY if is_old else (TOKENIZER,)
    return ["config.json", *tokenizer, *(name for name in COMPANIONS if name in there)]


def first_weights(names: Iterable[str]) -> str | None:
    """Return the weight file, or index of weight files, that is used; None if there is none."""
    found = set(names)
    return next((name for name in WEIGHTS if name in found), None)


def shards(index: bytes, where: str) -> list[str]:
    """Return the weight files that an index lists: names without a directory, sorted.

    The form is transformers': {"weight_map": {tensor name: file name}}. Raises UserError, in which
    `where` names the index.
    """
    try:
        weight_map = json.loads(index)["weight_map"]
        names = sorted(set(weight_map.values()))
        if names and all(PurePosixPath(name).name == name for name in names):
            return names
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(
        f"{where} does not list weight files", 'It must map tensors to files in "weight_map".'
    )


def files_of_checkpoint(directory: Path) -> list[str] | None:
    """Return the names of all files that the checkpoint in a directory needs, there or not.

    None if there are no weights. Raises UserError if an index of weight files cannot be read, and
    OSError if the directory cannot.
    """
    names = [path.name for path in directory.iterdir() if path.is_file()]
    weights = first_weights(names)
    if weights is None:
        return None
    if not weights.endswith(INDEX_SUFFIX):
        return [*companions(names), weights]
    index = directory / weights
    parts = shards(read_input(index, LARGEST_INDEX_BYTES), str(index))
    return [*companions(names), weights, *parts]
