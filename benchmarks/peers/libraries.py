"""Does what a run of `codegen complete` cannot do without, and writes a byte.

    python libraries.py TOKENIZER_JSON PACKED_FILE THREADS

It imports the libraries that the command is built on, parses the tokenizer, and takes the packed
weights into its memory map. It ends as the command does.
"""

import json
import os
import sys
import threading
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command does

import llvmlite.binding
import numpy as np
import tokenizers
import typer

NEEDED = (llvmlite.binding, np, typer)
PAGE_BYTES = 4096


def map_weights(path: Path, n_threads: int) -> None:
    """Touch all pages behind the embedding, of which a token reads a row, as a first token does."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        embedding = json.loads(file.read(header_bytes))["wte.weight"]
    weights = np.memmap(path, np.uint8, "r", 8 + header_bytes + embedding["data_offsets"][1])
    pages = np.array_split(weights[::PAGE_BYTES], n_threads)
    threads = [threading.Thread(target=part.max) for part in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    map_weights(Path(sys.argv[2]), int(sys.argv[3]))
    print(len(NEEDED), flush=True)
    os._exit(0)
