"""A run of `codegen complete` -> its texts on stdout, as it was asked; and words about it."""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from codegen_cli.decoding.summary import Summary
from codegen_cli.reports.openai_json import choice_object, completion_object, usage_object
from codegen_cli.session.completion_run import CompletionRun
from codegen_cli.session.sample import Sample
from codegen_cli.terminal import console, streams


class Sink(Protocol):
    """Where the texts of a run go."""

    def write(self, index: int, text: str) -> None:
        """Take the next text of a sample, perhaps empty; its first may be the prompt."""

    def end(self, run: CompletionRun) -> None:
        """Take what is known of the run once it is over; it may have been interrupted."""


def make_sink(n_samples: int, *, as_json: bool, null: bool, is_ranked: bool) -> Sink:
    """Return where texts go: null with NULs between them, is_ranked to a terminal."""
    if as_json:
        return JsonSink()
    if n_samples == 1:
        return StdoutSink(_without_nul if null else str)
    return RankingSink(n_samples) if is_ranked else NullSink()


def _without_nul(text: str) -> str:
    """Return a text in which nothing reads as the end of one."""
    return text.replace("\0", "\ufffd")


class StdoutSink:
    """A single sample's texts go to stdout at once, each as `spelled` gives it."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        self._spelled = spelled
        self._last = "\n"

    def write(self, index: int, text: str) -> None:
        """Write the next text."""
        if text:
            self._last = text[-1]
            streams.write_result(self._spelled(text))

    def end(self, run: CompletionRun) -> None:
        """Let what follows on a shared terminal or log begin on a line; costs no byte on stdout."""
        if self._last != "\n":
            console.end_line()


class NullSink:
    """The samples go to stdout at the end, in their order, with a NUL between each two."""

    def write(self, index: int, text: str) -> None:
        """Do nothing: the run keeps it."""

    def end(self, run: CompletionRun) -> None:
        """Write the whole."""
        texts = (_without_nul(run.echoed + sample.text) for sample in run.samples)
        streams.write_result("\0".join(texts))


class RankingSink:
    """On a terminal: samples are seen growing, and then go to stdout, the likeliest first."""

    def __init__(self, n_samples: int) -> None:
        self._n_samples = n_samples
        self._view = ExitStack()
        self._is_shown = False

    def write(self, index: int, text: str) -> None:
        """Show the next text; the view begins with the first."""
        if not self._is_shown:
            from codegen_cli.terminal.drawing import growing_texts

            self._grow = self._view.enter_context(growing_texts(self._n_samples))
            self._is_shown = True
        self._grow(index, text)

    def end(self, run: CompletionRun) -> None:
        """Write the samples, each under a line on stderr that names it."""
        self._view.close()
        for index, sample in sorted(enumerate(run.samples), key=lambda each: _rank(each[1])):
            console.note(_heading(index, sample))
            text = run.echoed + sample.text
            streams.write_result(text if text.endswith("\n") else f"{text}\n")


class JsonSink:
    """The run becomes one line of JSON on stdout at its end."""

    def write(self, index: int, text: str) -> None:
        """Do nothing: the run keeps it."""

    def end(self, run: CompletionRun) -> None:
        """Write the whole."""
        summaries = run.summaries
        report = completion_object(
            id=f"cmpl-{os.urandom(16).hex()}",
            created=int(time.time()),
            model=run.model,
            choices=[_choice(run, index, each) for index, each in enumerate(summaries)],
            usage=usage_object(summaries, len(summaries)),
            seed=run.options.seed,
        )
        timings = {"load_seconds": run.load_seconds, **_timings(run, summaries)}
        streams.write_json({**report, "timings": timings})


def _choice(run: CompletionRun, index: int, summary: Summary) -> dict[str, object]:
    sample = run.samples[index]
    tokens = None if run.options.logprobs is None else sample.tokens
    return choice_object(index, sample.text, summary, prompt=run.echoed, tokens=tokens)


def _timings(run: CompletionRun, summaries: list[Summary]) -> dict[str, float]:
    """Return the two phases of a single text; several share steps, and only the whole is clear."""
    if len(summaries) > 1:
        return {
            "generate_seconds": run.generate_seconds,
            "generate_tokens_per_second": _tokens_per_second(run, summaries),
        }
    [summary] = summaries
    return {
        "prefill_seconds": summary.prefill_seconds,
        "prefill_tokens_per_second": summary.prefill_tokens_per_second,
        "decode_seconds": summary.decode_seconds,
        "decode_tokens_per_second": summary.decode_tokens_per_second,
    }


def _tokens_per_second(run: CompletionRun, summaries: list[Summary]) -> float:
    n_tokens = sum(each.completion_tokens for each in summaries)
    return n_tokens / run.generate_seconds if run.generate_seconds else 0.0


def _rank(sample: Sample) -> float:
    """Return a number by which the likeliest sample comes first, and one without a text last."""
    mean = sample.mean_log_probability
    return float("inf") if mean is None else -mean


def _heading(index: int, sample: Sample) -> str:
    mean = sample.mean_log_probability
    return f"sample {index}, " + ("no text" if mean is None else f"mean log-probability {mean:.2f}")


def usage_line(run: CompletionRun) -> str:
    """Return the model, token counts and speeds, in words."""
    summaries, model = run.summaries, f"{run.model}: " if run.model else ""
    if len(summaries) > 1:
        return f"{model}{_shared_usage(run, summaries)}"
    [summary] = summaries
    return (
        f"{model}prompt {summary.prompt_tokens} tokens in {summary.prefill_seconds:.2f} s "
        f"({summary.prefill_tokens_per_second:.1f}/s), "
        f"completion {summary.completion_tokens} tokens in {summary.decode_seconds:.2f} s "
        f"({summary.decode_tokens_per_second:.1f}/s{_guesses(summaries)}), "
        f"load {run.load_seconds:.2f} s, {summary.end_reason}, seed {summary.seed}"
    )


def _shared_usage(run: CompletionRun, summaries: list[Summary]) -> str:
    """Return counts and speeds of all samples together, in words."""
    reasons = Counter(each.end_reason for each in summaries)
    return (
        f"prompt {summaries[0].prompt_tokens} tokens, {len(summaries)} completions of "
        f"{sum(each.completion_tokens for each in summaries)} tokens together, "
        f"all in {run.generate_seconds:.2f} s "
        f"({_tokens_per_second(run, summaries):.1f}/s{_guesses(summaries)}), "
        f"load {run.load_seconds:.2f} s, "
        f"{', '.join(f'{count} {reason}' for reason, count in reasons.items())}, "
        f"seed {run.options.seed}"
    )


def _guesses(summaries: list[Summary]) -> str:
    n_drafted = sum(each.drafted_tokens for each in summaries)
    n_accepted = sum(each.accepted_tokens for each in summaries)
    return f", {n_accepted} of {n_drafted} guesses right" if n_drafted else ""


def cut_line(run: CompletionRun) -> str:
    """Return what cut completions short and what gives more, in words; "" if nothing did."""
    summaries = run.summaries
    cut = [each for each in summaries if each.end_reason in ("time", "length")]
    if not cut:
        return ""
    n_alike = sum(each.end_reason == cut[0].end_reason for each in cut)
    of_all = f"{n_alike} of {len(summaries)} texts " if len(summaries) > 1 else ""
    return of_all + _cut(cut[0], run.options.max_tokens)


def _cut(summary: Summary, max_tokens: int) -> str:
    n_tokens = summary.completion_tokens
    if summary.end_reason == "time":
        return "cut at the time limit; --max-time for more"
    if n_tokens < max_tokens:
        n_tokens += summary.prompt_tokens
        return f"cut where the model's context is full, at {n_tokens} tokens"
    return f"cut at {n_tokens} token{'s' if n_tokens > 1 else ''}; -n for more"
