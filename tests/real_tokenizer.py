"""The tokenizer.json of the released CodeGen checkpoints, read once for all tests."""

from pathlib import Path

from codegen_cli.text.tokenizer import Tokenizer

TOKENIZER_JSON = (Path(__file__).parent / "data" / "tokenizer.json").read_bytes()
TOKENIZER = Tokenizer.from_json(TOKENIZER_JSON)
VOCAB_SIZE = 51200  # rows of the models' head; the tokenizer has 50295 ids
END_OF_TEXT_ID = 50256
