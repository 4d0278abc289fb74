"""A BPE tokenizer's JSON -> vocab.json, merges.txt and added_tokens.json in a directory."""

import json
from pathlib import Path
from typing import Any

from quantize.files.errors import UserError
from quantize.files.whole_file import SHARED, replace_files

_MERGES_HEADER = "#version: 0.2\n"


def vocabulary_files(tokenizer_json: str) -> dict[str, str]:
    """Return the content of vocab.json, merges.txt and added_tokens.json, by these names.

    As GPT-2's tokenizers have them: tokens with their ids; merges by rank; the ids of the tokens
    beside the vocabulary.
    """
    fields: dict[str, Any] = json.loads(tokenizer_json)
    model = fields["model"]
    vocab = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    added = {token["content"]: token["id"] for token in fields["added_tokens"]}
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    return {
        "vocab.json": json.dumps(vocab, ensure_ascii=False, separators=(",", ":")),
        "merges.txt": _MERGES_HEADER + "".join(f"{merge}\n" for merge in merges),
        "added_tokens.json": json.dumps({t: i for t, i in added.items() if t not in vocab}),
    }


def write_files(files: dict[str, str], directory: Path, prefix: str = "") -> list[Path]:
    """Write texts to a directory, which is made if need be; return their paths.

    Each file appears whole, and none before all could be written. Raises UserError when the
    directory cannot be written.
    """
    contents = {directory / f"{prefix}{name}": text.encode() for name, text in files.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_files(contents, mode=SHARED)
    except OSError as error:
        raise UserError(
            f"cannot write the vocabulary to {directory}: {error.strerror}",
            "Choose another directory.",
        ) from error
    return list(contents)
