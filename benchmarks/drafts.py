"""Completing code with and without drafts: the same ids, and how much sooner.

    python benchmarks/drafts.py [-m MODEL] [--replay] [--rounds 3] [FILE...]

The first half of each file is the prompt (by default, of each module of this project). Each round
completes it to 128 tokens with and without drafts, in turn; the ratio of a file is the median of
the ratios of decode seconds within the rounds.

--replay makes a model of any weights write the second half of the file: every step is computed,
and the file's next id is what it is taken to have said. That tells the speed at which a text
appears that people wrote, also where only the shape of a model is at hand.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from codegen_cli.contract.engine import Engine, Part
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Summary
from codegen_cli.models.model_choice import choose_model
from codegen_cli.session.generation import generate
from codegen_cli.session.loading import load_engine
from codegen_cli.text.tokenizer import Tokenizer
from codegen_cli.text.vocabulary import Vocabulary
from quantize.packed.packed_file import read_packed_file

ROOT = Path(__file__).parent.parent
MAX_TOKENS = 128


class Replay:
    """An engine that would go on with a given script, computed as any other."""

    def __init__(self, engine: Engine, script: Sequence[int]) -> None:
        self._engine = engine
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward(self, parts: Sequence[Part]) -> list[Any]:
        outcomes = self._engine.forward(parts)
        for part, logits in zip(parts, outcomes, strict=True):
            assert isinstance(logits, np.ndarray)
            first = part.cache.n_past - len(logits) + 1
            for row, token_id in zip(logits, self._script[first:], strict=False):
                row[token_id] = np.finfo(np.float32).max
        return outcomes


def complete(
    model: Engine, vocabulary: Vocabulary, prompt_ids: Sequence[int], draft: int
) -> tuple[list[int], Summary]:
    """Return the ids of a completion and what it took."""
    options = GenerateOptions(max_tokens=MAX_TOKENS, until="none", seed=1, draft=draft)
    *pieces, summary = generate(model, vocabulary, prompt_ids, options)
    assert isinstance(summary, Summary)
    return [i for piece in pieces for i in piece.ids], summary


def compare(
    model: Engine, vocabulary: Vocabulary, prompt_ids: Sequence[int], rounds: int
) -> tuple[float, float]:
    """Return how many times as fast drafts made it, and the tokens of a step with them."""
    ratios, tokens_a_step = [], []
    for _ in range(rounds):
        plain_ids, plain = complete(model, vocabulary, prompt_ids, draft=0)
        drafted_ids, drafted = complete(model, vocabulary, prompt_ids, draft=8)
        if drafted_ids != plain_ids:
            raise SystemExit("the ids differ")
        ratios.append(plain.decode_seconds / drafted.decode_seconds)
        n_tokens = drafted.completion_tokens
        tokens_a_step.append(n_tokens / (n_tokens - drafted.accepted_tokens))
    return median(ratios), median(tokens_a_step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path)
    parser.add_argument("-m", "--model", help="As for codegen complete.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replay", action="store_true", help="Write what the files go on with.")
    arguments = parser.parse_args()
    chosen = choose_model(arguments.model)
    packed = read_packed_file(chosen.path)
    model = load_engine(packed, chosen.name, arguments.threads)
    tokenizer = Tokenizer.from_packed(packed)
    vocabulary = tokenizer.vocabulary(model.config)
    found = []
    for path in arguments.files or sorted(ROOT.glob("codegen_cli/**/*.py")):
        ids = tokenizer.encode(path.read_text("utf-8"))[: 2 * (model.n_positions - MAX_TOKENS)]
        if len(ids) >= 2 * MAX_TOKENS:
            writer: Engine = Replay(model, ids) if arguments.replay else model
            found.append(compare(writer, vocabulary, ids[: len(ids) // 2], arguments.rounds))
            print("{:6.2f} times as fast, {:5.2f} tokens a step: {}".format(*found[-1], path))
    model.close()
    if found:
        ratio, tokens_a_step = (median(column) for column in zip(*found, strict=True))
        print(f"medians of {len(found)} files: {ratio:.2f} and {tokens_a_step:.2f}; the same ids")


if __name__ == "__main__":
    main()
