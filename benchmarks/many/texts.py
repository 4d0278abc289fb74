"""Numbers of tokens -> prompts of just so many, none of which begins as another does."""

import random
import re

from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.session.generation import Request
from codegen_cli.session.language_model import LanguageModel
from codegen_cli.text.text_side import Prompt

_WORD = re.compile(rb" [a-z]{3,}")  # a token that stays one, whatever stands beside it


class Words:
    """Random words, each of them one token."""

    def __init__(self, model: LanguageModel, seed: int = 0) -> None:
        bytes_of = model.tokenizer.token_bytes
        n_ids = min(model.tokenizer.vocab_size, model.config.vocab_size)
        self._words = [bytes_of(i).decode() for i in range(n_ids) if _WORD.fullmatch(bytes_of(i))]
        self._encode = model.tokenizer.encode
        self._random = random.Random(seed)

    def text(self, n_tokens: int) -> str:
        """Return a text of so many tokens."""
        text = "".join(self._random.choices(self._words, k=n_tokens))
        assert len(self._encode(text)) == n_tokens
        return text


def request(text: str, max_tokens: int, sample: int = 0) -> Request:
    """Return what is measured everywhere here: temperature 0.2, no drafts, to the last token."""
    options = GenerateOptions(
        max_tokens=max_tokens, temperature=0.2, seed=1, until="none", draft=0, sample=sample
    )
    return Request(sample, Prompt(text, max_tokens), options)
