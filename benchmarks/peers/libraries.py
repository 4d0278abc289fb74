"""Imports what `codegen complete` is built on, parses a tokenizer and writes a byte.

    python libraries.py TOKENIZER_JSON

What it takes before anything of the project's own can begin: no start can be shorter.
"""

import os
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command does

import llvmlite.binding
import numpy
import tokenizers
import typer

NEEDED = (llvmlite.binding, numpy, typer)

if __name__ == "__main__":
    tokenizers.Tokenizer.from_file(sys.argv[1])
    print(len(NEEDED), flush=True)
