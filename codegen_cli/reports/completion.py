"""One run of `codegen complete`: a prompt's text -> bytes on stdout, and a report of the run."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.models.model_choice import choose_model
from codegen_cli.models.registry import name_with_format
from codegen_cli.reports.openai_json import completion_object
from codegen_cli.terminal import console, streams
from codegen_cli.text.prompt import last_document
from codegen_cli.text.prompt_process import PromptProcess
from quantize.packed.packed_header import packed_text, read_packed_header

if TYPE_CHECKING:
    from codegen_cli.decoding.generate import Generation


class Completion:
    """Loads a model, completes a prompt with it, and keeps what a report needs.

    echo            the prompt is written first
    streams         text goes to stdout as it is made
    special_tokens  `<|endoftext|>` in the prompt is the end mark, not text

    `summary` is None until the model is loaded; from then on text and summary tell what was made so
    far, however the run ends. The model lives as long as this object.
    """

    def __init__(
        self, options: GenerateOptions, *, echo: bool, streams: bool, special_tokens: bool = False
    ) -> None:
        self._options = options
        self._special_tokens = special_tokens
        self._echo = echo
        self._streams = streams
        self._model = ""
        self._load_seconds = 0.0
        self.text = ""
        self.summary: Summary | None = None
        self._prompt_process: PromptProcess | None = None
        self._generation: Generation | None = None

    def run(
        self, read_prompt: Callable[[], str], model_option: str | None, n_threads: int | None
    ) -> None:
        """Complete the prompt that read_prompt returns.

        Raises UserError, KeyboardInterrupt, BrokenPipeError.
        """
        try:
            prompt = run_interruptibly(read_prompt, self._options.deadline)
            self._generation = generation = self._prepare(prompt, model_option, n_threads)
            self._write_all(prompt, generation)
        except TimeUp:
            self.summary = Summary(end_reason="time", seed=self._options.seed)
        finally:
            if self._prompt_process:
                self._prompt_process.close()

    def write_json(self) -> None:
        """Write the run as one line of JSON to stdout."""
        assert self.summary is not None
        report = completion_object(
            hex_id=os.urandom(16).hex(),
            created=int(time.time()),
            model=self._model,
            text=self.text,
            summary=self.summary,
            load_seconds=self._load_seconds,
        )
        streams.write_json(report)

    def usage_line(self) -> str:
        """Return the model, token counts and speeds, in words."""
        assert self.summary is not None
        summary = self.summary
        guesses, model = "", f"{self._model}: " if self._model else ""
        if summary.drafted_tokens:
            guesses = f", {summary.accepted_tokens} of {summary.drafted_tokens} guesses right"
        return (
            f"{model}prompt {summary.prompt_tokens} tokens in {summary.prefill_seconds:.2f} s "
            f"({summary.prefill_tokens_per_second:.1f}/s), "
            f"completion {summary.completion_tokens} tokens in {summary.decode_seconds:.2f} s "
            f"({summary.decode_tokens_per_second:.1f}/s{guesses}), "
            f"load {self._load_seconds:.2f} s, {summary.end_reason}, seed {summary.seed}"
        )

    def cut_line(self) -> str:
        """Return what cut the completion short and what gives more, in words; "" if nothing did."""
        assert self.summary is not None
        n_tokens, reason = self.summary.completion_tokens, self.summary.end_reason
        if reason == "time":
            return "cut at the time limit; --max-time for more"
        if reason != "length":
            return ""
        if n_tokens < self._options.max_tokens:
            n_tokens += self.summary.prompt_tokens
            return f"cut where the model's context is full, at {n_tokens} tokens"
        return f"cut at {n_tokens} token{'s' if n_tokens > 1 else ''}; -n for more"

    def _prepare(
        self, prompt: str, model_option: str | None, n_threads: int | None
    ) -> "Generation":
        """Load the model while another process reads the prompt."""
        started = time.monotonic()
        options = self._options
        chosen = choose_model(model_option, options.deadline)
        self._model = chosen.name
        header = read_packed_header(chosen.path)
        self._prompt_process = PromptProcess(
            packed_text(header),
            prompt,
            max_tokens=options.max_tokens,
            special_tokens=self._special_tokens,
        )
        # NumPy and LLVM come with these: not before there is the other process to work meanwhile.
        from codegen_cli.decoding.generate import generate
        from codegen_cli.machine.allocator import keep_freed_memory
        from codegen_cli.session.model_loading import load_chosen
        from quantize.packed.packed_file import packed_file

        keep_freed_memory()
        packed = packed_file(header)
        self._model = name_with_format(chosen.name, packed.format)
        engine = load_chosen(packed, chosen.name, n_threads, options.deadline)
        self._load_seconds = time.monotonic() - started
        fitted, vocabulary = self._prompt_process.result(options.deadline)
        if fitted.n_dropped_characters:
            console.warn(
                f"the prompt is too long: reading its last {len(fitted.ids)} tokens, "
                f"from line {fitted.first_line} on ({engine.n_positions} fit, completion included)"
            )
        document = last_document(prompt, special_tokens=self._special_tokens)
        return generate(engine, vocabulary, fitted.ids, options, document)

    def _write_all(self, prompt: str, generation: "Generation") -> None:
        self.summary = generation.summary("interrupted")
        self._write(prompt if self._echo else "")
        try:
            for item in generation:
                if isinstance(item, Piece):
                    self._write(item.text)
                else:
                    self.summary = item
        finally:
            if self.summary.end_reason == "interrupted":
                self.summary = generation.summary("interrupted")
            self._end_line()

    def _write(self, text: str) -> None:
        self.text += text
        if self._streams and text:
            streams.write_result(text)

    def _end_line(self) -> None:
        """Let what follows on a shared terminal or log begin on a line of its own.

        That costs no byte on stdout.
        """
        if self._streams and self.text and not self.text.endswith("\n"):
            console.end_line()
