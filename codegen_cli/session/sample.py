"""Pieces and a summary, as they come -> one text of a run, how far it is and how it ended."""

from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.sampled_tokens import SampledToken, mean_log_probability
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.text.prompt import FittedPrompt


class Sample:
    """One text of a run, as far as it has grown.

    options  of this text
    text     without the prompt
    tokens   of the text, where the options ask how likely they are
    end      None until it has ended
    """

    def __init__(self, options: GenerateOptions) -> None:
        self.options = options
        self.text = ""
        self.tokens: list[SampledToken] = []
        self.end: Summary | None = None
        self._n_ids = 0

    @property
    def mean_log_probability(self) -> float | None:
        """Of the tokens of its text so far; None where it has none."""
        return mean_log_probability(self.tokens)

    def take(self, item: Piece | Summary) -> str:
        """Take what was made next; return the text to show."""
        if isinstance(item, Summary):
            self.end = item
            return ""
        self.text += item.text
        self.tokens += item.tokens
        self._n_ids += len(item.ids)
        return item.text

    def end_by_time(self) -> None:
        """Have it end because time was up."""
        self.end = Summary(end_reason="time", seed=self.options.seed)

    def interrupted(self, prompt: FittedPrompt) -> Summary:
        """Return how it ends if that is now; of tokens whose text is held back nothing is known."""
        return Summary(
            end_reason="interrupted",
            seed=self.options.seed,
            prompt_tokens=len(prompt.ids),
            dropped_characters=prompt.n_dropped_characters,
            completion_tokens=self._n_ids,
        )
