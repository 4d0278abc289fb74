"""A prompt and a model's name -> the texts of a completion, and how far it came at any time."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.models.model_choice import choose_model
from codegen_cli.models.registry import name_with_format
from codegen_cli.session.device_choice import choose_device
from codegen_cli.session.loading import load_model
from codegen_cli.terminal import console
from codegen_cli.text.text_side import Prompt, TextSide
from quantize.packed.packed_header import read_packed_header

if TYPE_CHECKING:
    from codegen_cli.session.generation import Generation
    from codegen_cli.session.language_model import LanguageModel


class CompletionRun:
    """One run of `codegen complete`: loads a model while a prompt is read, and completes it.

    echo            the prompt is the first text
    special_tokens  `<|endoftext|>` in the prompt is the end mark, not text

    model         its name with its format, as far as that is known yet
    load_seconds  until it was ready

    The model lives as long as this object.
    """

    def __init__(
        self, options: GenerateOptions, *, echo: bool = False, special_tokens: bool = False
    ) -> None:
        self.options = options
        self.model = ""
        self.load_seconds = 0.0
        self._echo = echo
        self._special_tokens = special_tokens
        self._text: TextSide | None = None
        self._loaded: LanguageModel | None = None
        self._generation: Generation | None = None
        self._end: Summary | None = None

    @property
    def summary(self) -> Summary | None:
        """How the completion ended, or would if it ended now; None while there is no model."""
        if self._end is None and self._generation is not None:
            return self._generation.summary("interrupted")
        return self._end

    def texts(
        self,
        prompt: str,
        model_option: str | None,
        n_threads: int | None,
        device_option: str | None,
        *,
        ignore_memory: bool = False,
    ) -> Iterator[str]:
        """Yield the completion of a prompt, piece by piece; once.

        Raises UserError, TimeUp before there is a model, and whatever a signal handler raises.
        """
        try:
            self._generation = generation = self._begin(
                prompt, model_option, n_threads, device_option, ignore_memory
            )
            yield prompt if self._echo else ""
            for item in generation:
                if isinstance(item, Piece):
                    yield item.text
                else:
                    self._end = item
        finally:
            if self._text is not None:
                self._text.close()

    def end_by_time(self) -> None:
        """Have a summary of a run whose time was up before there was a model."""
        self._end = Summary(end_reason="time", seed=self.options.seed)

    def _begin(
        self,
        text: str,
        model_option: str | None,
        n_threads: int | None,
        device_option: str | None,
        ignore_memory: bool,
    ) -> "Generation":
        started = time.monotonic()
        deadline = self.options.deadline
        device = choose_device(device_option)
        chosen = choose_model(model_option, deadline)
        prompt = Prompt(text, self.options.max_tokens, self._special_tokens)
        self.model = chosen.name
        self._text = TextSide(read_packed_header(chosen.path), prompt)
        # NumPy and LLVM come from here on: not before there is the other process to work meanwhile.
        from codegen_cli.machine.allocator import keep_freed_memory

        keep_freed_memory()
        self.model = name_with_format(chosen.name, self._text.packed.format)
        self._loaded = load_model(
            self._text, chosen.name, n_threads, device, deadline, ignore_memory=ignore_memory
        )
        self.load_seconds = time.monotonic() - started
        fitted, generation = self._loaded.begin(prompt, self.options)
        if fitted.n_dropped_characters:
            n_positions = self._loaded.config.n_positions
            console.warn(
                f"the prompt is too long: reading its last {len(fitted.ids)} tokens, "
                f"from line {fitted.first_line} on ({n_positions} fit, completion included)"
            )
        return generation
