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
import numpy.typing as npt

import codegen_cli
from codegen_cli.deadline import Deadline
from codegen_cli.decoding.generate import generate
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Summary
from codegen_cli.engine.kv_cache import KVCache
from codegen_cli.engine.model import Model

ROOT = Path(__file__).parent.parent
MAX_TOKENS = 128


class Replay:
    """A model that would go on with a given script, computed as any other."""

    def __init__(self, model: Model, script: Sequence[int]) -> None:
        self.config, self.n_positions = model.config, model.n_positions
        self.new_cache = model.new_cache
        self._model = model
        self._script = script

    def forward(
        self,
        ids: Sequence[int],
        cache: KVCache,
        n_logits: int | None = None,
        deadline: Deadline = None,
    ) -> npt.NDArray[np.float32]:
        logits = self._model.forward(ids, cache, n_logits, deadline)
        first = cache.n_past - len(logits) + 1
        for row, token_id in zip(logits, self._script[first:], strict=False):
            row[token_id] = np.finfo(np.float32).max
        return logits


def decode(
    model: Any, language_model: codegen_cli.LanguageModel, prompt_ids: Sequence[int], draft: int
) -> tuple[list[int], Summary]:
    """Return the ids of a completion and what it took."""
    options = GenerateOptions(max_tokens=MAX_TOKENS, until="none", seed=1, draft=draft)
    vocabulary = language_model.tokenizer.vocabulary(model.config)
    *pieces, summary = generate(model, vocabulary, prompt_ids, options)
    assert isinstance(summary, Summary)
    return [i for piece in pieces for i in piece.ids], summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path)
    parser.add_argument("-m", "--model", help="As for codegen complete.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replay", action="store_true", help="Write what the files go on with.")
    arguments = parser.parse_args()
    paths = arguments.files or sorted(ROOT.glob("codegen_cli/**/*.py"))
    all_ratios, all_lengths = [], []
    with codegen_cli.load(arguments.model, arguments.threads, notes=True) as language_model:
        model = language_model._model()
        longest = model.n_positions - MAX_TOKENS
        for path in paths:
            ids = language_model.tokenizer.encode(path.read_text("utf-8"))
            if len(ids) < 2 * MAX_TOKENS:
                continue
            ids = ids[: 2 * longest]
            prompt_ids = ids[: len(ids) // 2]
            writer = Replay(model, ids) if arguments.replay else model
            ratios = []
            for _ in range(arguments.rounds):
                plain_ids, plain = decode(writer, language_model, prompt_ids, draft=0)
                drafted_ids, drafted = decode(writer, language_model, prompt_ids, draft=8)
                if drafted_ids != plain_ids:
                    raise SystemExit(f"{path}: the ids differ")
                ratios.append(plain.decode_seconds / drafted.decode_seconds)
            n_steps = drafted.completion_tokens - drafted.accepted_tokens
            all_ratios.append(median(ratios))
            all_lengths.append(drafted.completion_tokens / n_steps)
            print(
                f"{all_ratios[-1]:6.2f}x  {all_lengths[-1]:5.2f} tokens a step  "
                f"{plain.decode_tokens_per_second:6.1f} -> "
                f"{drafted.decode_tokens_per_second:6.1f} tokens/s  {path}"
            )
    print(
        f"medians of {len(all_ratios)} files: {median(all_ratios):.2f} times as fast, "
        f"{median(all_lengths):.2f} tokens a step; the ids were the same"
    )


if __name__ == "__main__":
    main()
