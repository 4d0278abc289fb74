"""A run of `codegen complete` -> its text on stdout as it is made, or JSON; and words about it."""

import os
import time
from typing import Protocol

from codegen_cli.reports.openai_json import choice_object, completion_object, usage_object
from codegen_cli.session.completion_run import CompletionRun
from codegen_cli.terminal import console, streams


class Sink(Protocol):
    """Where the texts of a completion go."""

    def write(self, text: str) -> None:
        """Take the next text, perhaps empty."""

    def end(self, run: CompletionRun) -> None:
        """Take what is known of the run once it is over; it may have been interrupted."""


class StdoutSink:
    """Each text goes to stdout at once."""

    def __init__(self) -> None:
        self._last = "\n"

    def write(self, text: str) -> None:
        """Write the next text."""
        if text:
            self._last = text[-1]
            streams.write_result(text)

    def end(self, run: CompletionRun) -> None:
        """Let what follows on a shared terminal or log begin on a line; costs no byte on stdout."""
        if self._last != "\n":
            console.end_line()


class JsonSink:
    """The run becomes one line of JSON on stdout at its end."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> None:
        """Keep the next text."""
        self._text += text

    def end(self, run: CompletionRun) -> None:
        """Write the whole."""
        assert run.summary is not None
        report = completion_object(
            hex_id=os.urandom(16).hex(),
            created=int(time.time()),
            model=run.model,
            choices=[choice_object(0, self._text, run.summary)],
            usage=usage_object([run.summary]),
            seed=run.summary.seed,
            timings={
                "load_seconds": run.load_seconds,
                "prefill_seconds": run.summary.prefill_seconds,
                "prefill_tokens_per_second": run.summary.prefill_tokens_per_second,
                "decode_seconds": run.summary.decode_seconds,
                "decode_tokens_per_second": run.summary.decode_tokens_per_second,
            },
        )
        streams.write_json(report)


def usage_line(run: CompletionRun) -> str:
    """Return the model, token counts and speeds, in words."""
    assert run.summary is not None
    summary = run.summary
    guesses, model = "", f"{run.model}: " if run.model else ""
    if summary.drafted_tokens:
        guesses = f", {summary.accepted_tokens} of {summary.drafted_tokens} guesses right"
    return (
        f"{model}prompt {summary.prompt_tokens} tokens in {summary.prefill_seconds:.2f} s "
        f"({summary.prefill_tokens_per_second:.1f}/s), "
        f"completion {summary.completion_tokens} tokens in {summary.decode_seconds:.2f} s "
        f"({summary.decode_tokens_per_second:.1f}/s{guesses}), "
        f"load {run.load_seconds:.2f} s, {summary.end_reason}, seed {summary.seed}"
    )


def cut_line(run: CompletionRun) -> str:
    """Return what cut the completion short and what gives more, in words; "" if nothing did."""
    assert run.summary is not None
    n_tokens, reason = run.summary.completion_tokens, run.summary.end_reason
    if reason == "time":
        return "cut at the time limit; --max-time for more"
    if reason != "length":
        return ""
    if n_tokens < run.options.max_tokens:
        n_tokens += run.summary.prompt_tokens
        return f"cut where the model's context is full, at {n_tokens} tokens"
    return f"cut at {n_tokens} token{'s' if n_tokens > 1 else ''}; -n for more"
