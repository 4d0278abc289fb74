"""The tokenizer of a loaded model: ours, with what transformers' CodeGenTokenizer has besides.

No command calls any of this; it is for Python code that was written for transformers.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_cli.text.tokenizer import Tokenizer
from quantize.files.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class CodeGenTokenizer(Tokenizer):
    """A Tokenizer that pads, truncates at patterns, knows tokens by name and saves its files."""

    @property
    def unk_id(self) -> int | None:
        """The id of the options' unk_token, None where there is none."""
        return self._id_of(self.options.unk_token)

    @property
    def pad_id(self) -> int | None:
        """The id of the options' pad_token, None where there is none."""
        return self._id_of(self.options.pad_token)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token, spelled as in the vocabulary; unk_id for one it lacks."""
        token_id = self._inner.token_to_id(token)
        return self.unk_id if token_id is None else token_id

    def inputs(
        self, texts: Sequence[str], *, special_tokens: bool = False
    ) -> "dict[str, npt.NDArray[np.int64]]":
        """Return several texts as the arrays that transformers' models take, int64 [n_texts, n].

        input_ids       the ids of each text, filled up to the longest with pad_id at the right
        attention_mask  1 for an id of the text, 0 for padding
        token_type_ids  0; only if the options have return_token_type_ids

        Raises UserError when texts differ in length and there is no pad_token, and as `encode`.
        """
        import numpy as np

        rows = [self.encode(text, special_tokens=special_tokens) for text in texts]
        longest = max(map(len, rows), default=0)
        if self.pad_id is None and any(len(row) < longest for row in rows):
            raise UserError(
                "the texts differ in length and the tokenizer has no pad_token",
                "Give TokenizerOptions(pad_token=...).",
            )
        shape = (len(rows), longest)
        input_ids = np.full(shape, self.pad_id or 0, np.int64)
        attention_mask = np.zeros(shape, np.int64)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.options.return_token_type_ids:
            arrays["token_type_ids"] = np.zeros(shape, np.int64)
        return arrays

    def decode(self, ids: Sequence[int], truncate_before_pattern: Sequence[str] = ()) -> str:
        """Return the text of ids, unknown ones giving nothing; never cleaned up.

        truncate_before_pattern  end where a completion leaves its function: see truncate_completion

        Raises UserError as Tokenizer.decode, and for a pattern that is no regular expression.
        """
        return truncate_completion(super().decode(ids), truncate_before_pattern)

    def save_vocabulary(self, directory: str | Path, filename_prefix: str = "") -> list[Path]:
        """Write vocab.json, merges.txt and added_tokens.json to a directory; return their paths.

        A checkpoint with these files in the place of tokenizer.json has the same ids, as far as
        they do not depend on its tokenizer_config.json. With a prefix the names begin with it and a
        hyphen. Raises UserError when the directory cannot be written.
        """
        from codegen_cli.text.vocabulary_files import vocabulary_files, write_files  # seldom

        prefix = f"{filename_prefix}-" if filename_prefix else ""
        return write_files(vocabulary_files(self._inner.to_str()), Path(directory), prefix)


def truncate_completion(text: str, patterns: Sequence[str]) -> str:
    """Return a completion up to where it leaves its function, as CodeGen's authors cut it.

    Cut before the second line that starts with `print`, then before the second that starts with
    `def`, then before the first match of any pattern (regular expressions in which ^ and $ match
    at every line). Without a pattern nothing is cut (`truncate` in
    https://github.com/salesforce/CodeGen/blob/main/codegen1/jaxformer/hf/sample.py and in
    transformers' CodeGenTokenizer). Raises UserError for a pattern that is no regular expression.
    """
    if not patterns:
        return text
    searched = [_compiled(pattern) for pattern in patterns]
    for statement in ("print", "def"):
        starts = [match.start() for match in re.finditer(f"^{statement}", text, re.MULTILINE)]
        if len(starts) > 1:
            text = text[: starts[1]]
    found = [match.start() for pattern in searched if (match := pattern.search(text))]
    return text[: min(found, default=len(text))]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UserError(
            f"truncate_before_pattern has {pattern!r}, need a regular expression: {error}",
            "re.escape(text) gives the pattern of a plain text.",
        ) from error
