"""The released checkpoints say what they are known to say: pytest -m network downloads them."""

import os
from pathlib import Path

import pytest

from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece
from codegen_cli.session.engines import open_engine
from codegen_cli.session.generation import generate
from codegen_cli.text.tokenizer import Tokenizer
from quantize.packed.packed_file import read_packed_file

# Read before conftest.py moves it: downloads go to the cache that the user has anyway.
HUB = {"HF_HOME": os.environ.get("HF_HOME", str(Path.home() / ".cache/huggingface"))}
ONLINE = {**HUB, "HF_HUB_OFFLINE": "0"}

# From the model cards and the documentation of transformers.
PUBLISHED = [
    ("350M-mono", "def hello_world():", '\n    print("Hello World")\n\nhello_world()\n', 14),
    (
        "350M-mono",
        "def hello_name(name):",
        '\n    print(f"Hello {name}")\n\nhello_name("John")',
        18,
    ),
    (
        "2B-mono",
        "The dog",
        " is a man's best friend. It is a loyal companion, and it is a friend",
        19,
    ),
]


@pytest.mark.network
@pytest.mark.parametrize(("name", "prompt", "expected", "n_tokens"), PUBLISHED)
def test_greedy_text_is_the_published_one(codegen, tmp_path, name, prompt, expected, n_tokens):
    download = codegen("download", "-q", name, timeout=3600, **ONLINE)
    assert download.returncode == 0, download.stderr.decode()
    packed = tmp_path / "packed"
    quantized = codegen("quantize", name, "--format", "f16", "-o", str(packed), **ONLINE)
    assert quantized.returncode == 0, quantized.stderr.decode()
    model = open_engine(packed)
    tokenizer = Tokenizer.from_packed(read_packed_file(packed))
    options = GenerateOptions(temperature=0, until="none", max_tokens=n_tokens)
    pieces = generate(model, tokenizer.vocabulary(model.config), tokenizer.encode(prompt), options)
    text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
    model.close()
    assert text == expected
