"""A prompt and a model's name -> the texts of completions, and how far they are at any time."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.models.model_choice import choose_model
from codegen_cli.models.registry import name_with_format
from codegen_cli.session.device_choice import choose_device
from codegen_cli.session.loading import load_model
from codegen_cli.session.sample import Sample
from codegen_cli.terminal import console
from codegen_cli.text.prompt import FittedPrompt
from codegen_cli.text.text_side import Prompt, TextSide
from quantize.files.errors import UserError
from quantize.packed.packed_header import read_packed_header

if TYPE_CHECKING:
    from codegen_cli.session.cache_room import Shortage
    from codegen_cli.session.generation import Generation
    from codegen_cli.session.language_model import LanguageModel

Items = Iterator[tuple[int, Piece | Summary | UserError]]
"""What the samples make, each with the sample's index, in whatever order."""


class CompletionRun:
    """One run of `codegen complete`: loads a model while a prompt is read, and completes it.

    n_samples       texts to make of the prompt; sample i is the text that options with that
                    `sample` give alone
    echo            each text is given after the prompt
    special_tokens  `<|endoftext|>` in the prompt is the end mark, not text

    samples           the texts
    model             its name with its format, as far as that is known yet
    load_seconds      until it was ready
    generate_seconds  from then on, as far as the samples have come
    echoed            what the texts are given after; "" while there is no model

    The model lives as long as this object.
    """

    def __init__(
        self,
        options: GenerateOptions,
        n_samples: int = 1,
        *,
        echo: bool = False,
        special_tokens: bool = False,
    ) -> None:
        self.options = options
        self.samples = [Sample(replace(options, sample=i)) for i in range(n_samples)]
        self.model = ""
        self.load_seconds = self.generate_seconds = 0.0
        self.echoed = ""
        self._echo = echo
        self._special_tokens = special_tokens
        self._fitted = FittedPrompt([], 0, 1)
        self._text: TextSide | None = None
        self._loaded: LanguageModel | None = None
        self._items: Items | None = None
        self._generation: Generation | None = None  # of a single sample

    @property
    def has_begun(self) -> bool:
        """Whether there is something to tell: a model is ready, or time was up before."""
        return self._items is not None or self.samples[0].end is not None

    @property
    def summaries(self) -> list[Summary]:
        """How each completion ended, or would if it ended now."""
        return [sample.end or self._interrupted(sample) for sample in self.samples]

    def texts(
        self,
        prompt: str,
        model_option: str | None,
        n_threads: int | None,
        device_option: str | None,
        *,
        ignore_memory: bool = False,
    ) -> Iterator[tuple[int, str]]:
        """Yield a sample's index and the text that it makes next; once.

        Each one's first text is the prompt with echo, else empty. Raises UserError, TimeUp before
        there is a model, and whatever a signal handler raises.
        """
        try:
            self._items = items = self._begin(
                prompt, model_option, n_threads, device_option, ignore_memory
            )
            self.echoed = prompt if self._echo else ""
            started = time.monotonic()
            for index in range(len(self.samples)):
                yield index, self.echoed
            for index, item in items:
                if isinstance(item, UserError):
                    raise item
                text = self.samples[index].take(item)
                self.generate_seconds = time.monotonic() - started
                yield index, text
        finally:
            if self._text is not None:
                self._text.close()

    def end_by_time(self) -> None:
        """Have a summary of a run whose time was up before there was a model."""
        for sample in self.samples:
            sample.end_by_time()

    def _interrupted(self, sample: Sample) -> Summary:
        if self._generation is not None:
            return self._generation.summary("interrupted")
        return sample.interrupted(self._fitted)

    def _begin(
        self,
        text: str,
        model_option: str | None,
        n_threads: int | None,
        device_option: str | None,
        ignore_memory: bool,
    ) -> Items:
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
        self._fitted, _ = self._text.read(prompt, deadline)
        _warn_of_dropped(self._fitted, self._loaded.config.n_positions)
        return self._generate(self._loaded, prompt)

    def _generate(self, model: "LanguageModel", prompt: Prompt) -> Items:
        """Return what the samples make; a single one is computed text by text, as it is asked."""
        if len(self.samples) == 1:
            _, generation = model.begin(prompt, self.samples[0].options)
            self._generation = generation
            return ((0, item) for item in generation)
        from codegen_cli.session.generation import Request

        requests = (Request(i, prompt, each.options) for i, each in enumerate(self.samples))
        items = model.generate_many(requests, self._tell_of_shortage)
        return ((cast(int, request.key), item) for request, item in items)

    def _tell_of_shortage(self, shortage: "Shortage") -> None:
        console.note(
            f"{shortage.n_texts} of {len(self.samples)} texts fit into memory at once "
            f"({console.size(shortage.room_bytes)} free): the others wait their turn"
        )


def _warn_of_dropped(fitted: FittedPrompt, n_positions: int) -> None:
    if fitted.n_dropped_characters:
        console.warn(
            f"the prompt is too long: reading its last {len(fitted.ids)} tokens, "
            f"from line {fitted.first_line} on ({n_positions} fit, completion included)"
        )
