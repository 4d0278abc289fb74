"""Does what a run of `codegen complete` cannot do without, and writes a byte.

    python libraries.py TOKENIZER_JSON PACKED_FILE THREADS

A child process parses the tokenizer while this one imports the libraries that the command is built
on; then the packed weights are taken into its memory map. It ends as the command does.
"""

import json
import os
import sys
import threading
from pathlib import Path

import typer

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command does
PAGE_BYTES = 4096


def parse_beside(tokenizer: str) -> int:
    """Parse a tokenizer in a child process; return a pipe that has a byte when it is done."""
    source, target = os.pipe()
    if os.fork() == 0:
        import tokenizers

        tokenizers.Tokenizer.from_file(tokenizer)
        os.write(target, b"1")
        os._exit(0)
    os.close(target)
    return source


def map_weights(path: Path, n_threads: int) -> None:
    """Touch all pages behind the embedding, of which a token reads a row, as a first token does."""
    import numpy as np

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
    parsed = parse_beside(sys.argv[1])
    import llvmlite.binding
    import numpy

    needed = (typer, numpy, llvmlite.binding)
    os.read(parsed, 1)
    map_weights(Path(sys.argv[2]), int(sys.argv[3]))
    print(len(needed), flush=True)
    os._exit(0)
