"""A packed file from a stranger -> a short completion: what the kernels make of any bytes."""

import functools
from pathlib import Path

from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.engine_cpu.compile import kernel_cache
from codegen_cli.session.engines import open_engine
from codegen_cli.session.generation import generate
from codegen_cli.text.prompt import fit_prompt
from codegen_cli.text.tokenizer import Tokenizer
from quantize.packed.packed_file import read_packed_file

# Looked up once: a fuzzer loads thousands of models.
kernel_cache.load_step = functools.cache(kernel_cache.load_step)
kernel_cache.load_step()


def complete(path: Path, text: str = "ab a b\n" * 3) -> str:
    """Complete a text with the model of a packed file on two threads, as the command does."""
    packed = read_packed_file(path)
    model = open_engine(packed, n_threads=2)
    try:
        tokenizer = Tokenizer.from_packed(packed)
        prompt = fit_prompt(text, tokenizer, n_positions=model.n_positions, max_tokens=5)
        options = GenerateOptions(max_tokens=5, seed=1, until="none")
        pieces = generate(model, tokenizer.vocabulary(model.config), prompt.ids, options)
        return "".join(getattr(piece, "text", "") for piece in pieces)
    finally:
        model.close()
